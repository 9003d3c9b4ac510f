"""Laws of the shifts by name: environments out of one pooled data set."""

from __future__ import annotations

import inspect

import numpy as np
import pandas as pd
import pytest
import torch

from holdfast.data import Environments
from holdfast.data.shifts import SHIFTS, apply_shift, rotate, shift_parameters


def images(n: int = 240, k: int = 4) -> Environments:
    rng = np.random.default_rng(100)
    x = rng.integers(0, 256, (n, 10, 10), dtype=np.uint8)
    x[:, [0, -1]] = x[:, :, [0, -1]] = 0
    return Environments.from_arrays(
        x, np.array(list("abcdef"))[np.arange(n) % k], np.where(np.arange(n) % 3 == 0, "A", "B"), {"id": np.arange(n)}
    )


def vectors(n: int = 240, k: int = 2) -> Environments:
    x = np.random.default_rng(100).standard_normal((n, 5)).astype(np.float32)
    return Environments.from_arrays(x, np.arange(n) % k, None, {"id": np.arange(n)})


def data_for(name: str) -> Environments:
    return vectors() if name == "spurious-feature" else images()


@pytest.mark.parametrize("name", list(SHIFTS))
def test_samples_keep_their_attributes_and_come_at_most_once(name):
    e = data_for(name)
    shifted = apply_shift(e, name, seed=100)
    rows = shifted.attributes["row"]
    assert len(np.unique(rows)) == len(rows)
    np.testing.assert_array_equal(shifted.attributes["id"], e.attributes["id"][rows])
    if name != "label-noise":
        np.testing.assert_array_equal(shifted.y, e.y[rows])
    if len(e.names) > 1:
        np.testing.assert_array_equal(shifted.attributes["source"], e.environment_names[rows])
    assert min(shifted.counts.values()) > 0
    assert len(shifted.names) >= 2


@pytest.mark.parametrize("name", list(SHIFTS))
def test_same_seed_same_bits_and_another_seed_another_division(name):
    e = data_for(name)
    a, b, c = (apply_shift(e, name, seed=s) for s in (100, 100, 101))
    np.testing.assert_array_equal(a.x, b.x)
    np.testing.assert_array_equal(a.environment, b.environment)
    np.testing.assert_array_equal(a.y, b.y)
    assert not (len(a) == len(c) and np.array_equal(a.x, c.x) and np.array_equal(a.environment, c.environment))


@pytest.mark.parametrize("name", list(SHIFTS))
def test_parameters_are_documented_with_their_defaults(name):
    document = inspect.getdoc(SHIFTS[name])
    for parameter in shift_parameters(name):
        assert parameter in document


@pytest.mark.parametrize(
    ("name", "identity"),
    [
        ("rotation", {"angles": (0, 360)}),
        ("translation", {"amounts": (0, 0.0)}),
        ("scale", {"factors": (1, 1.0)}),
        ("corruption", {"families": ("fog",), "severities": 0}),
        ("label-noise", {"rates": (0, 0.0)}),
    ],
)
def test_strength_zero_leaves_the_samples(name, identity):
    e = images()
    shifted = apply_shift(e, name, seed=100, **identity)
    np.testing.assert_array_equal(shifted.x, e.x)
    np.testing.assert_array_equal(shifted.y, e.y)


def test_rotation_turns_every_part_by_its_angle_and_keeps_classes_balanced():
    e = images()
    shifted = apply_shift(e, "rotation", seed=100, angles=[0, 30, 90])
    assert shifted.names == ("rotation=0", "rotation=30", "rotation=90")
    for name, angle in zip(shifted.names, (0, 30, 90)):
        part = shifted.only(name)
        np.testing.assert_array_equal(part.x, rotate(np.array(e.x[part.attributes["row"]]), angle))
    assert np.ptp(shifted.describe().drop(columns="samples").to_numpy()) <= 1


def test_colour_realises_the_strength_of_every_environment():
    e = images(6000)
    shifted = apply_shift(e, "spurious-colour", seed=100, strengths=[0.9, 0.6, 0.1])
    assert shifted.x.shape == (6000, 3, 10, 10)
    for name, strength in zip(shifted.names, (0.9, 0.6, 0.1)):
        part = shifted.only(name)
        agree = (part.attributes["colour"] == part.labels).mean()
        assert abs(agree - strength) < 5 * np.sqrt(strength * (1 - strength) / len(part))


def test_coloured_digits_recipe():
    e = images(6000, 4)
    shifted = apply_shift(e, "spurious-colour", seed=100, groups=2, label_noise=0.25, strengths=[0.9, 0.1])
    true = np.isin(e.y[shifted.attributes["row"]], ["c", "d"]).astype(int)
    np.testing.assert_array_equal(shifted.attributes["clean_label"], true)
    assert abs((shifted.y != true).mean() - 0.25) < 5 * np.sqrt(0.1875 / 6000)
    part = shifted.only("strength=0.9")
    assert abs((part.attributes["colour"] == part.y).mean() - 0.9) < 5 * np.sqrt(0.09 / len(part))


def test_spurious_feature_predicts_the_label_at_its_strength():
    shifted = apply_shift(vectors(6000), "spurious-feature", seed=100, strengths=[1.0, 0.2], noise=0.0)
    for name, strength in (("strength=1", 1.0), ("strength=0.2", 0.2)):
        part = shifted.only(name)
        agree = ((part.x[:, -1] > 0) == part.y).mean()
        assert abs(agree - strength) <= 5 * np.sqrt(strength * (1 - strength) / len(part))


def test_spurious_feature_joins_a_table_as_numeric_columns():
    frame = pd.DataFrame({"age": np.arange(60.0), "site": list("abc") * 20})
    e = Environments.from_arrays(frame, np.arange(60) % 3)
    shifted = apply_shift(e, "spurious-feature", seed=100, strengths=[1, 0])
    assert list(shifted.x.columns) == ["age", "site", "spurious_0", "spurious_1", "spurious_2"]
    pd.testing.assert_frame_equal(shifted.x[["age", "site"]], frame)


def test_label_prior_realises_the_shares():
    priors = [[0.5, 0.5], [0.9, 0.1], [0.25, 0.75]]
    shifted = apply_shift(vectors(3000), "label-prior", seed=100, priors=priors)
    for name, prior in zip(shifted.names, priors):
        part = shifted.only(name)
        assert abs((part.y == 0).sum() - prior[0] * len(part)) <= 1


def test_long_tail_realises_the_ratio():
    shifted = apply_shift(images(4000), "long-tail", seed=100, ratios=[1, 10, 100])
    for name, ratio in zip(shifted.names, (1, 10, 100)):
        count = shifted.only(name).describe().iloc[0, :4].to_numpy()
        assert abs(count[0] / ratio - count[-1]) <= 1


def test_label_noise_realises_the_rates_and_keeps_the_truth():
    e = images(6000)
    for noise in ("uniform", "next-class", "instance"):
        shifted = apply_shift(e, "label-noise", seed=100, rates=[0.4, 0.0], noise=noise)
        np.testing.assert_array_equal(shifted.attributes["clean_label"], e.y)
        wrong = shifted.y != shifted.attributes["clean_label"]
        assert not wrong[shifted.environment == 1].any()
        assert abs(wrong[shifted.environment == 0].mean() - 0.4) < 0.04


def test_covariate_environments_are_ordered_by_the_score():
    e = vectors(3000)
    shifted = apply_shift(e, "covariate", seed=100, by=2, n_environments=3)
    np.testing.assert_allclose(shifted.attributes["score"], e.x[:, 2])
    means = [part.x[:, 2].mean() for part in map(shifted.only, shifted.names)]
    assert means == sorted(means)
    assert means[2] - means[0] > 1


@pytest.mark.parametrize("by", ["age", "site", "principal", "projection"])
def test_covariate_selection_on_a_table(by):
    frame = pd.DataFrame({"age": [1.0, np.nan, *range(58)], "site": list("abc") * 20, "bmi": np.arange(60.0) ** 2})
    shifted = apply_shift(Environments.from_arrays(frame, np.arange(60) % 2), "covariate", seed=100, by=by)
    assert np.isfinite(shifted.attributes["score"]).all()
    assert len(shifted.attributes["score"]) == 60


@pytest.mark.parametrize("name", ["label-prior", "label-noise", "long-tail"])
def test_shifts_of_labels_act_on_text(name):
    e = Environments.from_arrays([f"text {i}" for i in range(300)], np.arange(300) % 2)
    shifted = apply_shift(e, name, seed=100)
    assert [f"text {i}" for i in shifted.attributes["row"]] == list(shifted.x)


def test_tensors_and_float_images_are_taken():
    x = torch.rand(60, 9, 9, generator=torch.Generator().manual_seed(100))
    shifted = SHIFTS["corruption"](x, np.arange(60) % 2, seed=100, families=["snow", "frost"], severities=[1, 5])
    assert shifted.names == ("clean", "snow=1", "frost=5")
    assert shifted.x.dtype == np.float32
    clean = shifted.only("clean")
    np.testing.assert_array_equal(clean.x[:, 0], x.numpy()[clean.attributes["row"]])


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("rotations", {}, "no shift 'rotations'; did you mean 'rotation'"),
        ("rotation", {"angle": [1, 2]}, r"no parameter 'angle'; it takes angles=\(0, 15, 30, 45, 60, 75\)"),
        ("rotation", {"angles": [1]}, "at least two environments"),
        ("spurious-colour", {"strengths": [0.9, 1.1]}, r"strengths\[1\] must be in \[0, 1\], got 1.1"),
        ("spurious-feature", {}, "takes vector or table samples, not image"),
        ("corruption", {"families": ["rain", "fog"]}, "families must be one of 'gaussian_noise'"),
        ("corruption", {"severities": [1, 2]}, "one per family"),
        ("scale", {"factors": [1, -1]}, "factors must be positive"),
        ("label-prior", {"priors": [[0.5, 0.5], [0.1, 0.9]]}, "4 columns"),
        ("label-noise", {"noise": "pink"}, "noise must be one of"),
        ("long-tail", {"ratios": [1, 0.5]}, "ratios"),
    ],
)
def test_bad_input_is_refused(name, params, message):
    with pytest.raises(ValueError, match=message):
        apply_shift(images(), name, seed=100, **params)


def test_regression_targets_are_moved_but_not_resampled_by_class():
    e = Environments.from_arrays(np.ones((30, 2)), np.linspace(0, 1, 30))
    assert apply_shift(e, "scale", seed=100).task == "regression"
    with pytest.raises(ValueError, match="needs class labels"):
        apply_shift(e, "long-tail", seed=100)
