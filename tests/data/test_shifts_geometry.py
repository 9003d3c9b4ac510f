"""Laws of rotation, translation and scale."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from holdfast.data.shifts import rotate, rotate_vectors, scale, translate


def smooth(n: int = 4, size: int = 33, seed: int = 100) -> np.ndarray:
    """Images of a few wide bumps well inside the frame."""
    rng = np.random.default_rng(seed)
    grid = np.arange(size, dtype=np.float64)
    out = np.zeros((n, size, size))
    for _ in range(3):
        cy, cx = size / 2 + rng.uniform(-6, 6, (2, n, 1, 1))
        out += np.exp(-((grid[None, :, None] - cy) ** 2 + (grid[None, None, :] - cx) ** 2) / (2 * 3.0**2)) / 3
    return out


def noise_bytes(*shape: int, seed: int = 100) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("degrees", [0, 360, -720, 3600.0])
def test_whole_turns_are_the_identity_bit_for_bit(degrees):
    x = np.random.default_rng(100).random((3, 2, 9, 12))
    for images in (noise_bytes(3, 9, 12), x.astype(np.float32)):
        np.testing.assert_array_equal(rotate(images, degrees), images)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns_move_pixels_without_loss(turns):
    x = noise_bytes(5, 12, 12)
    np.testing.assert_array_equal(rotate(x, 90 * turns), np.rot90(x, turns, axes=(1, 2)))


@pytest.mark.parametrize(("a", "b"), [(20, 25), (50, -15), (100, 200)])
def test_rotations_compose(a, b):
    x = smooth()
    np.testing.assert_allclose(rotate(rotate(x, a), b), rotate(x, a + b), atol=0.03)
    assert np.abs(rotate(x, a) - rotate(x, a + b)).max() > 0.1


def test_the_inverse_rotation_brings_the_image_back():
    x = smooth()
    np.testing.assert_allclose(rotate(rotate(x, 37), -37), x, atol=0.03)


def test_every_image_can_have_its_own_angle():
    x, angles = noise_bytes(4, 3, 10, 10), np.array([0.0, 30.0, 60.0, 90.0])
    alone = np.concatenate([rotate(x[i : i + 1], a) for i, a in enumerate(angles)])
    np.testing.assert_array_equal(rotate(x, angles), alone)


def test_whole_pixel_translation_is_a_copy_that_leaves_the_frame():
    x = noise_bytes(2, 8, 8)
    moved = translate(x, 3, -2)
    np.testing.assert_array_equal(moved[:, :6, 3:], x[:, 2:, :5])
    assert not moved[:, 6:].any()
    assert not moved[:, :, :3].any()


def test_translations_compose():
    x = smooth()
    once, twice = translate(x, 3.5, 1.25), translate(translate(x, 1.5, 0.25), 2.0, 1.0)
    np.testing.assert_allclose(once, twice, atol=1e-5)


def test_scaling_multiplies_the_area_by_the_square_of_the_factor():
    x = smooth()
    np.testing.assert_allclose(scale(x, 0.7).sum(axis=(1, 2)) / x.sum(axis=(1, 2)), 0.49, atol=0.01)


def test_scaling_by_one_is_the_identity_and_the_inverse_undoes_it():
    x = smooth()
    np.testing.assert_array_equal(scale(x, 1.0), x.astype(np.float32).astype(np.float64))
    np.testing.assert_allclose(scale(scale(x, 0.8), 1.25), x, atol=0.03)


@pytest.mark.parametrize("move", [lambda x: rotate(x, 33), lambda x: translate(x, 1.5, 2), lambda x: scale(x, 1.3)])
def test_layouts_and_containers_agree(move):
    x = noise_bytes(3, 3, 9, 11)
    expected = move(x)
    assert expected.dtype == np.uint8
    np.testing.assert_array_equal(move(np.moveaxis(x, 1, -1)), np.moveaxis(expected, 1, -1))
    np.testing.assert_array_equal(move(x[:, 0]), expected[:, 0])
    as_tensor = move(torch.from_numpy(x))
    assert isinstance(as_tensor, torch.Tensor)
    np.testing.assert_array_equal(as_tensor.numpy(), expected)
    as_float = move(x.astype(np.float64) / 255)
    assert as_float.dtype == np.float64
    np.testing.assert_allclose(as_float, expected / 255, atol=0.6 / 255)


def test_the_input_is_left_alone():
    x = noise_bytes(2, 9, 9)
    before = x.copy()
    out = rotate(x, 0)
    out[:] = 0
    rotate(x, 20)
    np.testing.assert_array_equal(x, before)


def test_fill_comes_in_at_the_corners():
    x = np.full((1, 9, 9), 255, np.uint8)
    assert rotate(x, 45)[0, 0, 0] == 0
    assert rotate(x, 45, fill=1.0).min() == 255


def test_vectors_rotate_by_the_group_law_and_keep_their_length():
    x = np.random.default_rng(100).standard_normal((20, 4))
    turned = rotate_vectors(x, 25, plane=(1, 3))
    np.testing.assert_allclose(np.linalg.norm(turned, axis=1), np.linalg.norm(x, axis=1))
    np.testing.assert_allclose(rotate_vectors(turned, 40, plane=(1, 3)), rotate_vectors(x, 65, plane=(1, 3)))
    np.testing.assert_array_equal(turned[:, [0, 2]], x[:, [0, 2]])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: rotate(np.zeros((2, 8, 8)), [1, 2, 3]), ValueError, "one entry per sample"),
        (lambda: rotate(np.zeros((2, 8, 8)), np.nan), ValueError, "degrees must be finite"),
        (lambda: rotate(np.zeros((2, 8, 8), int), 1), TypeError, "uint8 or float"),
        (lambda: rotate([[1.0]], 1), TypeError, "array or a tensor"),
        (lambda: rotate(np.zeros((2, 5)), 1), ValueError, "must have shape"),
        (lambda: scale(np.zeros((2, 8, 8)), 0), ValueError, "factor must be positive"),
        (lambda: rotate_vectors(np.zeros((2, 2)), 1, plane=(0, 2)), ValueError, "two different features"),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_the_first_image_that_is_not_finite_is_named():
    x = np.zeros((4, 8, 8))
    x[2, 1, 1] = np.inf
    with pytest.raises(ValueError, match="row 2 holds inf"):
        translate(x, 1)
