"""What all learners share: any input, environments as metadata, the same bits, and a file that brings them back."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, LeaveOneGroupOut, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

import holdfast
from holdfast.shift import ERM, ERMRegressor, GroupDRO, Mixup, VREx

RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 5))
Y = np.where(X[:, 0] + 0.3 * X[:, 1] > 0, "yes", "no")
E = np.array(["a", "b", "c"])[np.arange(120) % 3]
FAST = {"size": "tiny", "epochs": 15, "lr": 1e-2, "random_state": 0}


def table(n: int = 90) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "age": np.where(np.arange(n) % 7 == 0, np.nan, RNG.normal(50, 10, n)),
            "ward": RNG.choice(["north", "south", "east"], n),
        }
    )


INPUTS = {
    "vector": X,
    "image": RNG.random((60, 8, 8)),
    "colour image": (255 * RNG.random((60, 9, 8, 3))).astype(np.uint8),
    "table": table(),
    "text": [f"word{i % 3} and some more words {i}" for i in range(60)],
    "sets": [RNG.normal(size=(3 + i % 4, 2)) for i in range(60)],
    "tensor": torch.from_numpy(X).float(),
}


@pytest.mark.parametrize("kind", INPUTS)
def test_every_kind_of_input_fits_predicts_and_comes_back_from_disk(kind, tmp_path):
    x = INPUTS[kind]
    y = np.arange(len(x)) % 3
    model = ERM(**FAST).fit(x, y, environment=y % 2)
    probabilities = model.predict_proba(x)
    assert probabilities.shape == (len(x), 3)
    assert np.allclose(probabilities.sum(1), 1, atol=1e-5)
    again = holdfast.load(model.save(tmp_path / "model"))
    assert np.array_equal(again.predict_proba(x), probabilities)
    assert np.array_equal(again.transform(x), model.transform(x))
    assert again.get_params() == model.get_params()


def test_same_seed_same_bits_and_the_global_state_is_left_alone():
    before = torch.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
    a = ERM(**FAST).fit(X, Y).predict_proba(X)
    b = ERM(**FAST).fit(X, Y).predict_proba(X)
    c = ERM(**(FAST | {"random_state": 1})).fit(X, Y).predict_proba(X)
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == str(np.random.get_state())  # noqa: NPY002


def test_numeric_tables_and_arrays_give_the_same_model():
    frame = pd.DataFrame(X.astype(np.float32))
    a = ERM(**FAST).fit(frame, Y).predict_proba(frame)
    b = ERM(**FAST).fit(X.astype(np.float32), Y).predict_proba(X.astype(np.float32))
    assert np.allclose(a, b, atol=1e-4)


def test_labels_keep_their_type():
    assert set(ERM(**FAST).fit(X, Y).predict(X)) <= {"yes", "no"}


def test_learns_what_there_is_to_learn():
    x, y = load_digits(return_X_y=True)
    model = ERM(epochs=20, lr=3e-3, random_state=0).fit(x[:1200], y[:1200])
    assert model.score(x[1200:], y[1200:]) > 0.9


def test_environments_are_routed_through_pipelines_and_searches():
    with sklearn.config_context(enable_metadata_routing=True):
        model = GroupDRO(**(FAST | {"epochs": 3})).set_fit_request(environment=True)
        pipeline = make_pipeline(StandardScaler(), model).fit(X, Y, environment=E)
        assert pipeline[-1].environments_.tolist() == ["a", "b", "c"]
        scores = cross_val_score(
            model, X, Y, cv=LeaveOneGroupOut().set_split_request(groups=True), params={"environment": E, "groups": E}
        )
        assert len(scores) == 3
        search = GridSearchCV(model, {"step_size": [0.01, 0.1], "lr": [1e-2]}, cv=2).fit(X, Y, environment=E)
        assert search.best_params_["step_size"] in (0.01, 0.1)


def test_clone_copies_hyper_parameters_only():
    model = VREx(penalty=3.0, **FAST).fit(X, Y, environment=E)
    copy = clone(model)
    assert copy.penalty == 3.0
    assert not hasattr(copy, "network_")


def test_your_own_backbone_is_used_and_left_unchanged(tmp_path):
    backbone = nn.Sequential(nn.Linear(5, 7), nn.Tanh())
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    model = ERM(backbone=backbone, **{k: v for k, v in FAST.items() if k != "size"}).fit(X, Y)
    assert model.transform(X).shape == (120, 7)
    assert all(torch.equal(before[k], v) for k, v in backbone.state_dict().items())
    path = model.save(tmp_path / "own")
    with pytest.raises(ValueError, match="your own backbone Sequential"):
        holdfast.load(path)
    assert np.array_equal(holdfast.load(path, backbone=backbone).predict(X), model.predict(X))


def test_early_stopping_holds_rows_out_and_stops():
    model = ERM(size="tiny", epochs=300, lr=3e-2, validation_fraction=0.25, patience=2, random_state=0).fit(X, Y)
    assert model.n_steps_ < model.context_.steps


def test_mixup_draws_partners_from_the_seed():
    a = Mixup(**FAST).fit(X, Y, environment=E).predict_proba(X)
    assert np.array_equal(a, Mixup(**FAST).fit(X, Y, environment=E).predict_proba(X))


def test_regressor_rescales_its_targets(tmp_path):
    y = 1000 + 50 * X[:, 0]
    model = ERMRegressor(epochs=60, lr=1e-2, random_state=0).fit(X, y)
    assert model.score(X, y) > 0.9
    assert np.array_equal(holdfast.load(model.save(tmp_path / "r")).predict(X), model.predict(X))


@pytest.mark.parametrize("kind", ["vector", "image", "table"])
def test_exported_program_gives_the_same_probabilities(kind, tmp_path):
    x = INPUTS[kind]
    model = ERM(**FAST).fit(x, np.arange(len(x)) % 3)
    path = model.export(tmp_path / "model.pt2")
    program = torch.export.load(path).module()
    encoded = model.input_.encode(x)
    assert np.allclose(program(encoded).detach().numpy(), model.predict_proba(x), atol=1e-6)


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        (X, Y[:-1], {}, "inconsistent|lengths differ"),
        (X, np.zeros(120), {}, "one class"),
        (np.where(np.arange(120)[:, None] == 3, np.nan, X), Y, {}, "row 3, column 0 holds NaN; give a pandas table"),
        (np.where(np.arange(120)[:, None] == 3, np.inf, X), Y, {}, "row 3, column 0 holds infinity"),
        (X, np.where(np.arange(120) == 3, np.nan, 1.0), {}, "NaN"),
        (X, Y, {"backbone": "resnet"}, "resnet"),
        (X, Y, {"size": "huge"}, "size must be one of"),
        (X, Y, {"batch_size": 0}, "batch_size"),
        (X, Y, {"validation_fraction": 1.0}, "validation_fraction"),
        (X, Y, {"optimizer": "magic"}, "optimizer"),
        (X, Y, {"lr": -1.0}, "lr must be in"),
    ],
)
def test_wrong_input_is_refused_at_the_door(x, y, options, message):
    with pytest.raises(ValueError, match=message):
        ERM(**(FAST | options)).fit(x, y)


def test_environment_of_another_length_or_missing_is_refused():
    with pytest.raises(ValueError, match=r"shape \(120,\), got \(3,\)"):
        ERM(**FAST).fit(X, Y, environment=["a", "b", "c"])
    missing = np.array(["a"] * 119 + [None], dtype=object)
    with pytest.raises(ValueError, match="row 119"):
        ERM(**FAST).fit(X, Y, environment=missing)


def test_one_environment_warns_for_methods_that_compare_them():
    with pytest.warns(UserWarning, match="GroupDRO compares environments"):
        GroupDRO(**FAST).fit(X, Y)


class OwnERM(ERM):
    """A learner defined outside the library."""


def test_a_learner_of_your_own_loads_through_its_class(tmp_path):
    model = OwnERM(**FAST).fit(X, Y)
    again = OwnERM.load(model.save(tmp_path / "own"))
    assert np.array_equal(again.predict_proba(X), model.predict_proba(X))
    with pytest.raises(TypeError, match="holds a ERM, not a GroupDRO"):
        GroupDRO.load(ERM(**FAST).fit(X, Y).save(tmp_path / "erm"))


def test_a_fit_goes_on_from_its_checkpoint(tmp_path):
    options = FAST | {"epochs": 4}
    whole = ERM(**options).fit(X, Y).predict_proba(X)
    first = ERM(checkpoint=str(tmp_path / "state"), **options).fit(X, Y)
    again = ERM(checkpoint=str(tmp_path / "state"), **options).fit(X, Y)
    assert np.array_equal(first.predict_proba(X), whole)
    assert np.array_equal(again.predict_proba(X), whole)
    assert again.fit_seconds_ <= first.fit_seconds_ + 1


def test_other_data_never_resumes_a_checkpoint(tmp_path):
    options = FAST | {"epochs": 4, "checkpoint": str(tmp_path / "state")}
    ERM(**options).fit(X, Y)
    flipped = np.where(Y == "yes", "no", "yes")
    fresh = ERM(**(options | {"checkpoint": None})).fit(X, flipped)
    assert np.array_equal(ERM(**options).fit(X, flipped).predict_proba(X), fresh.predict_proba(X))
