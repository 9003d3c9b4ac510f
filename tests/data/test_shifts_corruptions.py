"""Laws of the fifteen corruptions."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from holdfast.data.shifts import CORRUPTIONS, corrupt
from holdfast.data.worlds import coloured_shapes

FAMILIES = list(CORRUPTIONS)
BLURS = ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur"]
FIXED = ["defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"]


def pictures(size: int, n: int = 24) -> np.ndarray:
    return coloured_shapes(n // 2, strengths=(0.9, 0.1), size=size, seed=100).x


def rmse(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [8, 28, 65])
def test_damage_grows_with_severity(family, size):
    x = pictures(size)
    damage = [rmse(corrupt(x, family, s, seed=100), x) for s in range(1, 6)]
    assert damage[0] > 0
    assert damage[4] > damage[0]
    assert all(b >= a * 0.999 for a, b in pairwise(damage)), damage


@pytest.mark.parametrize("family", FAMILIES)
def test_layout_dtype_and_range_are_kept(family):
    x = pictures(20, 6)[:, :, :, :17]
    out = corrupt(x, family, 4, seed=100)
    assert out.shape == x.shape
    assert out.dtype == np.uint8
    last = corrupt(np.moveaxis(x, 1, -1), family, 4, seed=100)
    np.testing.assert_array_equal(np.moveaxis(last, -1, 1), out)
    grey = (x[:, 0] / 255).astype(np.float32)
    out = corrupt(grey, family, 4, seed=100)
    assert out.shape == grey.shape
    assert out.dtype == np.float32
    assert 0 <= out.min() <= out.max() <= 1
    tensor = corrupt(torch.from_numpy(grey)[:, None], family, 4, seed=100)
    assert tensor.shape == (6, 1, 20, 17)
    np.testing.assert_array_equal(tensor[:, 0].numpy(), out)


@pytest.mark.parametrize("family", FAMILIES)
def test_severity_zero_is_the_identity(family):
    x = pictures(16, 4)
    np.testing.assert_array_equal(corrupt(x, family, 0, seed=100), x)


@pytest.mark.parametrize("family", FAMILIES)
def test_same_seed_same_bits_and_another_seed_another_draw(family):
    x = pictures(16, 4)
    a, b = corrupt(x, family, 3, seed=100), corrupt(x, family, 3, seed=101)
    np.testing.assert_array_equal(a, corrupt(x, family, 3, seed=100))
    assert np.array_equal(a, b) == (family in FIXED)


@pytest.mark.parametrize(
    "family", ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "elastic_transform", "pixelate"]
)
def test_blur_and_displacement_leave_a_plain_image(family):
    x = np.full((2, 3, 24, 24), 0.4)
    np.testing.assert_allclose(corrupt(x, family, 5, seed=100), x, atol=1e-5)


@pytest.mark.parametrize("family", [*BLURS, "pixelate"])
def test_blur_takes_detail_away(family):
    x = np.random.default_rng(100).random((4, 32, 32))
    assert np.var(corrupt(x, family, 3, seed=100)) < 0.5 * np.var(x)


def test_gaussian_noise_has_its_deviation():
    x = np.full((40, 32, 32), 0.5)
    residual = corrupt(x, "gaussian_noise", 1, seed=100) - x
    # 40,960 draws: five standard errors of a deviation are 0.0014.
    assert abs(residual.std() - 0.08) < 0.0014
    assert abs(residual.mean()) < 5 * 0.08 / np.sqrt(residual.size)


def test_shot_noise_has_the_variance_of_a_photon_count():
    x = np.full((40, 32, 32), 0.5)
    out = corrupt(x, "shot_noise", 1, seed=100)
    assert abs(out.var() - 0.5 / 60) < 0.1 * 0.5 / 60
    assert abs(out.mean() - 0.5) < 5 * np.sqrt(0.5 / 60 / out.size)


def test_impulse_noise_hits_its_share_half_black_half_white():
    out = corrupt(np.full((40, 32, 32), 0.5), "impulse_noise", 5, seed=100)
    error = 5 * np.sqrt(0.135 / out.size)
    assert abs((out == 0).mean() - 0.135) < error
    assert abs((out == 1).mean() - 0.135) < error


def test_contrast_keeps_the_mean_and_shrinks_the_distance_to_it():
    x = np.random.default_rng(100).random((3, 3, 16, 16))
    mean = x.mean(axis=(2, 3), keepdims=True)
    np.testing.assert_allclose(corrupt(x, "contrast", 2, seed=100), mean + 0.3 * (x - mean), atol=1e-6)


def test_brightness_raises_the_value_and_keeps_the_ratio_of_channels():
    x = np.random.default_rng(100).uniform(0.1, 0.5, (3, 3, 8, 8))
    out = corrupt(x, "brightness", 2, seed=100)
    np.testing.assert_allclose(out.max(axis=1), x.max(axis=1) + 0.2, atol=1e-6)
    np.testing.assert_allclose(out / out.max(axis=1, keepdims=True), x / x.max(axis=1, keepdims=True), atol=1e-5)


def test_pixelate_keeps_the_mean_of_every_block():
    x = np.random.default_rng(100).random((2, 32, 32))
    out = corrupt(x, "pixelate", 5, seed=100)
    blocks = x.reshape(2, 8, 4, 8, 4).mean(axis=(2, 4))
    np.testing.assert_allclose(out, np.kron(blocks, np.ones((4, 4))), atol=1e-6)


def test_motion_blur_draws_its_own_angle_for_every_image():
    point = np.zeros((6, 33, 33))
    point[:, 16, 16] = 1
    out = corrupt(point, "motion_blur", 5, seed=100)
    assert len({tuple(np.round(o.ravel(), 4)) for o in out}) == 6


def test_weather_adds_light_to_a_black_scene():
    black = np.zeros((4, 24, 24))
    for family in ("snow", "frost", "fog", "brightness"):
        assert corrupt(black, family, 3, seed=100).mean() > 0.05


@pytest.mark.parametrize(
    ("images", "family", "severity", "error", "message"),
    [
        (np.zeros((2, 8, 8)), "rain", 1, ValueError, "family must be one of 'gaussian_noise'"),
        (np.zeros((2, 8, 8)), "fog", 6, ValueError, "severity must be in"),
        (np.zeros((2, 8, 8)), "fog", 1.5, TypeError, "severity must be an integer"),
        (np.zeros((2, 7, 8)), "fog", 1, ValueError, "sides of at least 8"),
        (np.full((2, 8, 8), 16.0), "fog", 1, ValueError, r"must lie in \[0, 1\].*divide"),
        (np.zeros((2, 8, 8), np.int64), "fog", 1, TypeError, "uint8 or float"),
    ],
)
def test_bad_input_is_refused(images, family, severity, error, message):
    with pytest.raises(error, match=message):
        corrupt(images, family, severity, seed=100)
