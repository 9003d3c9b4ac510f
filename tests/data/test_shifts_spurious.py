"""Laws of spurious colour, background and features."""

from __future__ import annotations

import numpy as np
import pytest

from holdfast.data.shifts import append_feature, paint_background, palette, spurious_attribute, tint


@pytest.mark.parametrize("k", [2, 5])
@pytest.mark.parametrize("strength", [0.0, 0.3, 0.9, 1.0])
def test_the_attribute_agrees_with_the_label_at_the_strength(k, strength):
    y = np.random.default_rng(100).integers(0, k, 20_000)
    a = spurious_attribute(y, k, strength, seed=101)
    assert abs((a == y).mean() - strength) <= 5 * np.sqrt(strength * (1 - strength) / len(y))


def test_two_balanced_classes_correlate_by_twice_the_strength_less_one():
    y = np.arange(40_000) % 2
    for strength in (0.1, 0.5, 0.8):
        a = spurious_attribute(y, 2, strength, seed=100)
        assert abs(np.corrcoef(a, y)[0, 1] - (2 * strength - 1)) < 5 / np.sqrt(len(y))


def test_other_values_are_equally_likely_and_chance_strength_is_independence():
    y = np.arange(40_000) % 4
    table = np.zeros((4, 4))
    np.add.at(table, (y, spurious_attribute(y, 4, 0.25, seed=100)), 1)
    assert np.abs(table / 10_000 - 0.25).max() < 5 * np.sqrt(0.25 * 0.75 / 10_000)
    wrong = spurious_attribute(y, 4, 0.0, seed=100)
    counts = np.bincount((wrong - y) % 4, minlength=4) / len(y)
    assert counts[0] == 0
    assert np.abs(counts[1:] - 1 / 3).max() < 5 * np.sqrt(2 / 9 / len(y))


def test_every_sample_can_have_its_own_strength():
    y = np.zeros(1000, int)
    strength = np.repeat([1.0, 0.0], 500)
    np.testing.assert_array_equal(spurious_attribute(y, 2, strength, seed=100) == y, strength == 1)


def test_palette_colours_are_distinct_saturated_and_full():
    for k in (2, 3, 10):
        c = palette(k)
        np.testing.assert_allclose(c.max(axis=1), 1.0)
        np.testing.assert_allclose(c.min(axis=1), 0.0)
        assert len(np.unique(c.round(6), axis=0)) == k


def test_tint_keeps_brightness_and_takes_the_hue():
    x = np.random.default_rng(100).random((6, 9, 9))
    colours = palette(3)[[0, 1, 2, 0, 1, 2]]
    out = tint(x, colours)
    assert out.shape == (6, 3, 9, 9)
    np.testing.assert_allclose(out.max(axis=1), x, atol=1e-6)
    np.testing.assert_allclose(out, x[:, None] * colours[:, :, None, None], atol=1e-6)


def test_tint_of_amount_zero_is_the_identity_and_layouts_agree():
    x = np.random.default_rng(100).integers(0, 256, (4, 3, 9, 10), dtype=np.uint8)
    colours = palette(4)
    np.testing.assert_array_equal(tint(x, colours, amount=0.0), x)
    last = tint(np.moveaxis(x, 1, -1), colours, amount=0.4)
    np.testing.assert_array_equal(np.moveaxis(last, -1, 1), tint(x, colours, amount=0.4))


def test_background_takes_the_colour_and_the_object_stays():
    x = np.zeros((3, 3, 16, 16), np.uint8) + 30
    x[:, :, 5:11, 5:11] = np.array([200, 120, 60])[:, None, None]
    out = paint_background(x, palette(3))
    np.testing.assert_array_equal(out[:, :, 5:11, 5:11], x[:, :, 5:11, 5:11])
    border = np.round(255 * palette(3)).astype(np.uint8)
    np.testing.assert_array_equal(out[:, :, 0, 3], border)
    np.testing.assert_array_equal(out[:, :, 12, 15], border)


def test_appended_feature_is_the_attribute_plus_noise_of_its_deviation():
    a = np.arange(20_000) % 2
    out = append_feature(np.zeros((20_000, 3)), a, 2, noise=0.5, scale=2.0, seed=100)
    residual = out[:, 3] - 2.0 * (2 * a - 1)
    assert abs(residual.std() - 1.0) < 5 / np.sqrt(2 * 20_000)
    exact = append_feature(np.zeros((4, 1)), np.array([0, 1, 2, 1]), 3, noise=0.0, seed=100)
    np.testing.assert_array_equal(exact[:, 1:].argmax(axis=1), [0, 1, 2, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: spurious_attribute(np.array([0, 1]), 2, 1.2, seed=1), "strength must be in"),
        (lambda: spurious_attribute(np.array([0, 2]), 2, 0.5, seed=1), "labels must be integers in"),
        (lambda: tint(np.zeros((2, 8, 8)), palette(3)), "one RGB triple"),
        (lambda: tint(np.zeros((2, 2, 8, 8)), palette(2)), "1 or 3 channels"),
        (lambda: paint_background(np.full((2, 8, 8), 9.0), palette(2)), "must lie in"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
