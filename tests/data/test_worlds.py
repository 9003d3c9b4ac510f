"""Laws of the procedural worlds."""

from __future__ import annotations

import numpy as np
import pytest

from holdfast.data.shifts import palette
from holdfast.data.worlds import (
    SHAPES,
    coloured_shapes,
    gaussian_environments,
    invariant_accuracy,
    render_shapes,
    spurious_accuracy,
)

N = 20_000


def half_width(p: float) -> float:
    return 5 * np.sqrt(p * (1 - p) / N) + 1e-12


@pytest.mark.parametrize("noise", [0.5, 1.0, 2.0])
def test_the_oracle_on_causal_features_reaches_the_closed_form_everywhere(noise):
    e = gaussian_environments(3, N, n_causal=4, noise=noise, strengths=(0.9, 0.5, 0.1), seed=100)
    right = (e.x[:, :4].sum(axis=1) > 0) == e.y
    best = invariant_accuracy(noise)
    for k in range(3):
        assert abs(right[e.environment == k].mean() - best) < half_width(best)


def test_no_linear_rule_on_causal_features_beats_the_closed_form():
    e = gaussian_environments(2, N, n_causal=4, noise=1.0, strengths=(0.5, 0.5), seed=100)
    rng, best = np.random.default_rng(101), invariant_accuracy(1.0)
    for w in rng.standard_normal((50, 4)):
        accuracy = ((e.x[:, :4] @ w > 0) == e.y).mean()
        assert accuracy < best + half_width(best)


@pytest.mark.parametrize("strength", [0.95, 0.5, 0.1])
def test_spurious_features_are_worth_their_closed_form(strength):
    e = gaussian_environments(2, N, n_spurious=3, spurious_noise=0.7, strengths=(strength, strength), seed=100)
    accuracy = ((e.x[:, 5:].sum(axis=1) > 0) == e.y)[e.environment == 0].mean()
    expected = spurious_accuracy(strength, 0.7)
    assert abs(accuracy - expected) < half_width(expected)
    agree = (e.attributes["spurious"] == e.y)[e.environment == 0].mean()
    assert abs(agree - strength) < half_width(strength)


def test_gaussian_classes_are_balanced_in_every_environment_and_the_seed_fixes_all():
    a, b, c = (gaussian_environments(3, 100, seed=s) for s in (100, 100, 101))
    assert (a.describe()[["0", "1"]] == 50).all().all()
    np.testing.assert_array_equal(a.x, b.x)
    assert not np.array_equal(a.x, c.x)
    assert a.names == ("strength=0.9", "strength=0.5", "strength=0.1")


def test_shapes_realise_colour_strength_and_label_noise():
    e = coloured_shapes(4000, strengths=(0.9, 0.25), size=8, label_noise=0.2, seed=100)
    for k, s in enumerate((0.9, 0.25)):
        agree = (e.attributes["colour"] == e.y)[e.environment == k].mean()
        assert abs(agree - s) < 5 * np.sqrt(s * (1 - s) / 4000)
    assert abs((e.attributes["shape"] != e.y).mean() - 0.2) < 5 * np.sqrt(0.16 / 8000)
    drawn = np.unique(e.attributes["shape"], return_counts=True)[1]
    assert drawn.tolist() == [2000] * 4


def test_the_picture_shows_the_colour_of_the_attribute():
    e = coloured_shapes(300, strengths=(0.5, 0.5), shapes=("circle", "square", "cross"), size=24, seed=100)
    order = {"circle": 0, "square": 1, "cross": 2}
    hue = palette(3)[[order[c] for c in e.attributes["colour"]]]
    bright = e.x.reshape(600, 3, -1)
    pixel = bright.max(axis=1).argmax(axis=1)
    seen = bright[np.arange(600), :, pixel]
    np.testing.assert_array_equal(seen > 100, hue > 0.5)


def test_covered_areas_are_those_of_the_figures():
    n, size = 300, 96
    areas = {
        "circle": np.pi * 0.85**2,
        "square": 1.44**2,
        "triangle": 3 * np.sqrt(3) * 0.5**2,
        "cross": 2 * 2.0 * 0.6 - 0.6**2,
        "ring": np.pi * (1 - 0.5**2),
        "bar": 2.0 * 0.64,
    }
    white = np.ones((n, 3))
    for shape, area in areas.items():
        x = render_shapes([shape], np.zeros(n, int), white, size=size, seed=100).astype(float)
        cover = (x[:, 0] > x[:, 0].max(axis=(1, 2), keepdims=True) / 2 + 12).sum(axis=(1, 2))
        # Radii are uniform on [0.2, 0.4] of the side, so their mean square is 0.28 / 3.
        expected = area * size**2 * 0.28 / 3
        assert abs(cover.mean() / expected - 1) < 0.12, shape


def test_every_shape_is_drawn_whole_and_apart_from_the_others():
    n = 40
    for shape in SHAPES:
        x = render_shapes([shape], np.zeros(n, int), np.ones((n, 3)), size=64, seed=100)
        mask = x[:, 0] > 110
        assert mask.any(axis=(1, 2)).all()
        assert not mask[:, [0, -1]].all(axis=(1, 2)).any()
    whole = render_shapes(list(SHAPES), np.arange(8), np.ones((8, 3)), size=32, seed=100)
    assert len({p.tobytes() for p in whole}) == 8


def test_places_sizes_and_angles_vary():
    x = render_shapes(["bar"], np.zeros(200, int), np.ones((200, 3)), size=32, seed=100)[:, 0] > 110
    rows = (x * np.arange(32)[None, :, None]).sum(axis=(1, 2)) / x.sum(axis=(1, 2))
    assert rows.std() > 3
    assert x.sum(axis=(1, 2)).std() > 10


def test_shapes_are_reproducible():
    a, b, c = (coloured_shapes(20, size=16, seed=s) for s in (100, 100, 101))
    np.testing.assert_array_equal(a.x, b.x)
    assert not np.array_equal(a.x, c.x)
    assert a.x.dtype == np.uint8


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gaussian_environments(2, 10, strengths=(0.1, 0.2, 0.3), seed=1), "one entry per environment"),
        (lambda: gaussian_environments(2, 10, noise=-1, seed=1), "noise must be in"),
        (lambda: coloured_shapes(4, shapes=("circle",), seed=1), "at least two different"),
        (lambda: coloured_shapes(4, shapes=("circle", "blob"), seed=1), "shapes must be one of"),
        (lambda: coloured_shapes(4, size=4, seed=1), "size must be in"),
        (lambda: coloured_shapes(4, strengths=(2.0, 0.1), seed=1), "strengths"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
