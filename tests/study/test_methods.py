"""Every learner of the table lives a whole life on a table with missing values: fit, predict, save, cite, export."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from holdfast import cite, load, save
from holdfast.core.random import isolated_rng
from holdfast.study.methods import METHODS, build

N = 96
STEPS = 12


def make_table() -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(100)
    y = np.arange(N) % 3
    frame = pd.DataFrame({"age": rng.normal(50, 9, N) + 12 * y, "pressure": rng.normal(120, 15, N)})
    frame.loc[::7, "age"] = np.nan
    ward = np.array(["east", "west", None], dtype=object)[rng.integers(0, 3, N)]
    frame["ward"] = pd.Series(ward, dtype=object)
    frame["day"] = pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 300, N), "D")
    return frame, np.array(["ill", "severe", "well"])[y], np.array(["north", "south"])[np.arange(N) // 3 % 2]


@pytest.fixture(scope="module", params=METHODS)
def fitted(request):
    x, y, environment = make_table()
    with isolated_rng(0):
        model = build(request.param, {"steps": STEPS, "size": "tiny"}, random_state=101)
        return model.fit(x, y, environment=environment)


def unseen_rows() -> pd.DataFrame:
    x = make_table()[0].head(8).copy()
    x.loc[0, "ward"] = "moon"
    x.loc[1, ["age", "pressure"]] = np.nan
    return x


def test_it_predicts_rows_with_missing_values_and_unseen_categories(fitted):
    p = fitted.predict_proba(unseen_rows())
    assert p.shape == (8, 3)
    assert np.isfinite(p).all()
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-5)
    assert (fitted.predict(unseen_rows()) == fitted.classes_[p.argmax(1)]).all()
    assert np.isfinite(fitted.transform(unseen_rows())).all()


def test_saved_and_loaded_it_predicts_the_same(fitted, tmp_path):
    save(fitted, tmp_path / "model")
    again = load(tmp_path / "model")
    assert type(again) is type(fitted)
    np.testing.assert_array_equal(again.predict_proba(unseen_rows()), fitted.predict_proba(unseen_rows()))
    np.testing.assert_array_equal(again.transform(unseen_rows()), fitted.transform(unseen_rows()))


def test_it_can_be_cited(fitted):
    assert cite(fitted).startswith("@")
    assert cite(type(fitted)).startswith("@")


def test_exported_it_predicts_the_same(fitted, tmp_path):
    encoded = fitted.input_.encode(unseen_rows())[torch.arange(8)]
    path = fitted.export(tmp_path / "model.pt2")
    with torch.no_grad():
        served = torch.export.load(path).module()(encoded)
    np.testing.assert_allclose(served.numpy(), fitted.predict_proba(unseen_rows()), atol=1e-5)
