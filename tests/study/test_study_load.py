"""What a specification says of its data is what the study gets."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from holdfast.study.load import load_setting
from holdfast.study.spec import SpecError, parse_spec


def setting(**data):
    return parse_spec({"data": data, "methods": ["erm"]}).settings[0]


@pytest.fixture
def visits(tmp_path):
    rng = np.random.default_rng(100)
    n = 120
    frame = pd.DataFrame({"patient": [f"p{i}" for i in range(n)], "age": rng.integers(20, 90, n).astype(str)})
    frame["ward"] = rng.integers(1, 4, n)
    frame["site"] = np.repeat(["N", "S"], [80, 40])
    frame["label"] = np.tile(["no", "no", "no", "yes"], n // 4)
    frame.loc[5, "age"] = "unknown"
    frame.to_csv(tmp_path / "visits.csv", index=False)
    return str(tmp_path / "visits.csv")


def test_a_limit_keeps_the_shares_of_environments_and_classes_and_is_drawn_once(visits):
    options = {"missing": ["unknown"], "drop": ["patient"]}
    data = load_setting(setting(path=visits, limit=60, options=options))
    assert data.describe().drop(columns="samples").to_numpy().tolist() == [[30, 10], [15, 5]]
    again = load_setting(setting(path=visits, limit=60, options=options))
    pd.testing.assert_frame_equal(data.x, again.x)
    assert len(load_setting(setting(path=visits, limit=1000, options=options))) == 120


def test_options_of_a_path_reach_its_reader(visits):
    with pytest.raises(SpecError, match="'unknown' in a column of numbers"):
        load_setting(setting(path=visits))
    data = load_setting(
        setting(path=visits, options={"missing": ["unknown"], "drop": ["patient"], "categorical": ["ward"]})
    )
    assert list(data.x) == ["age", "ward"]
    assert data.x["age"].isna().sum() == 1
    assert data.x["ward"].iloc[0] in {"1", "2", "3"}


def test_images_of_many_sizes_are_read_at_the_size_asked_for(tmp_path):
    for i, where in enumerate(("a/x", "a/y", "b/x", "b/y")):
        (tmp_path / where).mkdir(parents=True)
        Image.new("RGB", (8 + i, 9)).save(tmp_path / where / "0.png")
    with pytest.raises(SpecError, match="resize"):
        load_setting(setting(path=str(tmp_path)))
    assert load_setting(setting(path=str(tmp_path), options={"size": 8})).x.shape == (4, 3, 8, 8)
