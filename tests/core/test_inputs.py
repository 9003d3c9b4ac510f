"""Raw input to model input: the same rows at training and at prediction time, and clear refusals."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

from holdfast.core.inputs import InputEncoder, input_kind


def test_kinds():
    assert input_kind(np.zeros((3, 2))) == "vector"
    assert input_kind(np.zeros((3, 8, 8, 3))) == "image"
    assert input_kind(pd.DataFrame({"a": [1]})) == "table"
    assert input_kind(np.array(["a", "b"])) == "text"
    assert input_kind([np.zeros((2, 3)), np.zeros((4, 3))]) == "sets"
    with pytest.raises(TypeError, match="1 axes"):
        input_kind(np.zeros(3))


def test_channels_last_and_first_images_agree():
    images = np.random.default_rng(0).random((4, 6, 5, 3)).astype(np.float32)
    last = InputEncoder.fit(images)
    first = InputEncoder.fit(images.transpose(0, 3, 1, 2))
    assert last.signature == first.signature
    assert last.signature.shape == (3, 6, 5)
    assert torch.equal(last.encode(images), first.encode(images.transpose(0, 3, 1, 2)))


def test_uint8_images_stay_uint8_and_have_moments_on_the_unit_scale():
    images = np.full((4, 8, 8), 255, np.uint8)
    images[:2] = 0
    encoder = InputEncoder.fit(images)
    assert encoder.encode(images).dtype == torch.uint8
    assert encoder.signature.mean == pytest.approx((0.5,))
    assert encoder.signature.std == pytest.approx((0.5,))


def test_table_codes_unseen_missing_and_known_categories_apart():
    frame = pd.DataFrame({"n": [1.0, np.nan, 3.0], "c": ["x", None, "y"]})
    encoder = InputEncoder.fit(frame)
    rows = encoder.encode(pd.DataFrame({"c": ["y", "new", None], "n": [2.0, np.nan, 5.0]}))
    assert rows[:, 1].tolist() == [3.0, 0.0, 1.0]
    assert torch.isnan(rows[1, 0])
    assert encoder.signature.missing == (0,)
    assert encoder.signature.median == (2.0,)


def test_table_moments_ignore_missing_values():
    values = np.array([1.0, np.nan, 3.0, 8.0])
    s = InputEncoder.fit(pd.DataFrame({"n": values})).signature
    assert s.mean[0] == pytest.approx(np.nanmean(values))
    assert s.std[0] == pytest.approx(np.nanstd(values))


def test_column_order_and_extra_columns_do_not_matter():
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": ["u", "v"]})
    encoder = InputEncoder.fit(frame)
    assert torch.equal(encoder.encode(frame), encoder.encode(frame[["b", "a"]].assign(extra=0)))


def test_dates_and_booleans_are_numbers():
    frame = pd.DataFrame({"d": pd.to_datetime(["1970-01-02", None]), "f": [True, False]})
    rows = InputEncoder.fit(frame).encode(frame)
    assert rows[0].tolist() == [1.0, 1.0]
    assert torch.isnan(rows[1, 0])


def test_json_round_trip_encodes_the_same():
    frame = pd.DataFrame({"n": [1.0, 2.0], "c": ["x", "y"]})
    encoder = InputEncoder.fit(frame)
    again = InputEncoder.from_dict(json.loads(json.dumps(encoder.to_dict())))
    assert torch.equal(encoder.encode(frame), again.encode(frame))
    assert again.signature == encoder.signature


def test_sets_are_padded_and_masked():
    sets = [np.ones((2, 3)), 2 * np.ones((4, 3)), 3 * np.ones((1, 3))]
    encoded = InputEncoder.fit(sets).encode(sets)
    values, mask = encoded[torch.tensor([2, 1])]
    assert mask.sum(1).tolist() == [1, 4]
    assert values.shape == (2, 4, 3)
    assert values[0].sum() == 9
    assert values[1].sum() == 24


def test_text_bags_do_not_depend_on_the_batch():
    texts = ["good morning sir", "", "good night"]
    encoded = InputEncoder.fit(texts).encode(texts)
    ids, offsets = encoded[torch.tensor([0, 1, 2])]
    alone, zero = encoded[torch.tensor([2])]
    assert zero.tolist() == [0]
    assert alone.tolist() == ids[offsets[2] :].tolist()
    assert offsets[1] == offsets[2], "an empty text has no n-grams"


@pytest.mark.parametrize(
    ("fit", "encode", "message"),
    [
        (np.zeros((3, 2)), np.zeros((3, 4)), r"shape \(2,\), got \(4,\)"),
        (np.zeros((3, 2)), np.array([[0.0, np.nan]]), "row 0 holds nan"),
        (np.zeros((3, 8, 8)), np.zeros((3, 9, 8)), r"shape \(1, 8, 8\)"),
        (["a", "b"], np.zeros((3, 2)), "fitted on text input, got vector"),
        (pd.DataFrame({"a": [1.0], "b": [2.0]}), pd.DataFrame({"a": [1.0]}), "column 'b' is missing"),
        (pd.DataFrame({"a": [1.0]}), pd.DataFrame({"a": ["many"]}), "row 0 holds 'many'"),
        (pd.DataFrame({"a": [1.0]}), pd.DataFrame({"a": [np.inf]}), "row 0 is infinite"),
        ([np.zeros((2, 3))], [np.zeros((2, 4))], "must have 3 features"),
    ],
)
def test_input_unlike_the_training_input_is_refused(fit, encode, message):
    encoder = InputEncoder.fit(fit)
    with pytest.raises(ValueError, match=message):
        encoder.encode(encode)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((0, 2)), "no samples"),
        (np.array([[np.inf, 0.0]]), "row 0 holds inf"),
        (np.zeros((2, 7, 9, 9)), "1 to 4 channels"),
        ([np.zeros((2, 3)), np.zeros((2, 4))], r"widths \[3, 4\]"),
        ([np.zeros((2, 3)), np.zeros((0, 3))], "set 1 is empty"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "'a' appears more than once"),
    ],
)
def test_unusable_training_input_is_refused(x, message):
    with pytest.raises(ValueError, match=message):
        InputEncoder.fit(x)
