import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.diffusion import DataScaling


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["hw", "chw", "hwc"]),
    st.sampled_from(["uint8", "float32", "float64", "int64"]),
    st.sampled_from([1, 2, 3]),
    st.integers(0, 10**6),
)
def test_images_come_back_as_they_were(layout, dtype, channels, seed):
    rng = np.random.default_rng(seed)
    shape = {"hw": (4, 5, 6), "chw": (4, channels, 5, 6), "hwc": (4, 5, 6, channels)}[layout]
    x = rng.integers(0, 256, shape).astype(dtype) if dtype in ("uint8", "int64") else rng.random(shape).astype(dtype)
    scaling = DataScaling.fit(x)
    z = scaling.encode(x)
    assert z.shape == (4, 1 if layout == "hw" else channels, 5, 6)
    assert z.dtype == torch.float32
    assert -1 <= float(z.min()) <= float(z.max()) <= 1
    back = scaling.decode(z)
    assert back.dtype == x.dtype
    np.testing.assert_allclose(back, x, atol=1e-6)
    assert DataScaling.from_dict(scaling.to_dict()) == scaling


def test_ranges_are_told_from_the_values():
    for low, high in ((0, 1), (-1, 1)):
        x = np.linspace(low, high, 32).reshape(2, 4, 4)
        s = DataScaling.fit(x)
        assert (s.low, s.high) == (low, high)
        z = s.encode(x)
        assert (float(z.min()), float(z.max())) == (-1, 1)
    s = DataScaling.fit(np.arange(32).reshape(2, 4, 4), value_range=(-10, 70))
    assert float(s.encode(np.full((1, 4, 4), 30)).unique()) == 0


def test_vectors_are_standardised_and_a_constant_column_stays_constant():
    x = np.random.default_rng(0).normal([1, 2, 7], [3, 0.1, 0], (500, 3))
    s = DataScaling.fit(x)
    z = s.encode(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(z.std(0, correction=0), torch.tensor([1.0, 1.0, 0.0]), atol=1e-5, rtol=0)
    np.testing.assert_allclose(s.decode(z), x, atol=1e-6)
    assert (s.decode(torch.randn(9, 3))[:, 2] == 7).all()


def test_samples_beyond_the_range_are_clamped():
    s = DataScaling.fit(np.arange(32, dtype=np.uint8).reshape(2, 4, 4))
    assert s.decode(torch.tensor([-3.0, 5.0]).reshape(1, 1, 1, 2)).tolist() == [[[0, 255]]]


@pytest.mark.parametrize(
    ("x", "match"),
    [
        (np.zeros((3, 4, 4)) + np.nan, "must be finite"),
        (np.full((3, 4), 2.0), "all 3 samples are equal"),
        (np.arange(48).reshape(3, 4, 4) - 5, r"int64 must have values in \[0, 255\], got values from -5 to 42"),
        (np.arange(48.0).reshape(3, 4, 4), r"value_range=\(low, high\)"),
        (np.zeros((3, 4, 4), dtype=complex), "must hold numbers"),
    ],
)
def test_data_that_have_no_form_are_refused(x, match):
    with pytest.raises((ValueError, TypeError), match=match):
        DataScaling.fit(x)
