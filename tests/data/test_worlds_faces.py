from __future__ import annotations

import numpy as np
import pytest

from holdfast.data.worlds.faces import FACE_ATTRIBUTES, FACE_FACTORS, draw_faces, make_attribute_faces

N, SIZE = 40, 32
LINE = (np.arange(SIZE) + 0.5) / SIZE * 2 - 1


def regions(f):
    """Where each attribute may change a picture, with a margin of two pixels for soft edges."""
    x, y = LINE[None, None, :], LINE[None, :, None]
    cx, cy, w, h = (f[k][:, None, None] for k in ("x", "y", "width", "height"))
    m = 0.125
    near = lambda px, py, r: np.hypot(x - px, y - py) < r + m  # noqa: E731
    eyes = [(cx - 0.45 * w, cy - 0.1 * h), (cx + 0.45 * w, cy - 0.1 * h)]
    wide = np.abs(x - cx) < 1.1 * w + m
    return {
        "glasses": near(*eyes[0], 0.25) | near(*eyes[1], 0.25),
        "hat": (np.abs(y - cy + h) < 0.25 * h + m) & wide,
        "smile": (np.abs(y - cy - 0.45 * h) < 0.2 + m) & (np.abs(x - cx) < 0.45 * w + m),
        "beard": (y > cy + 0.62 * h - m) & wide,
        "dark_hair": (y < cy - 0.45 * h + m) & wide,
        "red_hair": (y < cy - 0.45 * h + m) & wide,
        "nose": near(cx, cy + 0.15 * h, 0.16),
        "earrings": near(cx - 1.02 * w, cy + 0.2 * h, 0.1) | near(cx + 1.02 * w, cy + 0.2 * h, 0.1),
        "scarf": (np.abs(y - cy - 1.1 * h) < 0.12 + m) & wide,
    }


def nuisance(seed):
    rng = np.random.default_rng(seed)
    return {k: rng.uniform(low, high, N) for k, (low, high) in FACE_FACTORS.items()}


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("name", FACE_ATTRIBUTES[:9])
def test_an_attribute_changes_its_own_region_alone(name, colour):
    f = nuisance(100)
    c = np.random.default_rng(101).integers(0, 2, (N, 10)).astype(float)
    other = c.copy()
    other[:, FACE_ATTRIBUTES.index(name)] = 1 - c[:, FACE_ATTRIBUTES.index(name)]
    a, b = (draw_faces(k, f, size=SIZE, attributes=FACE_ATTRIBUTES, colour=colour) for k in (c, other))
    change = np.abs(a - b).mean(1)
    inside = regions(f)[name]
    assert change[~inside].mean() <= 0.02
    assert change[inside].mean() > 5 * change[~inside].mean()


def test_skin_tone_darkens_the_face_step_by_step():
    f, tones = nuisance(100), np.linspace(0, 1, 5)
    mean = [draw_faces(np.full((N, 1), t), f, attributes=["skin_tone"]).mean() for t in tones]
    assert mean == sorted(mean, reverse=True)


def test_the_same_seed_gives_the_same_bytes_and_another_one_others():
    a, b = (make_attribute_faces(9, seed=100).x.tobytes() for _ in range(2))
    assert a == b != make_attribute_faces(9, seed=101).x.tobytes()


def test_truth_is_returned_with_the_faces():
    faces = make_attribute_faces(50, noise=0.0, seed=100)
    np.testing.assert_allclose(draw_faces(faces.c, faces.factors), faces.x, atol=1e-6)
    for name, (low, high) in FACE_FACTORS.items():
        assert low <= faces.factors[name].min() <= faces.factors[name].max() <= high


def test_noise_and_nuisance_do_not_depend_on_the_attributes():
    plain = make_attribute_faces(20, seed=100, c=np.zeros((20, 5)))
    other = make_attribute_faces(20, seed=100, c=np.ones((20, 5)))
    assert all(np.array_equal(plain.factors[k], other.factors[k]) for k in FACE_FACTORS)


def test_probabilities_and_ranges_shift_what_is_drawn():
    faces = make_attribute_faces(4000, 8, seed=100, probability={"glasses": 0.1}, factors={"skin": (0.9, 0.9)})
    share = faces.c.mean(0)
    assert abs(share[0] - 0.1) < 4.5 * 0.3 / 4000**0.5
    assert bool((np.abs(share[1:] - 0.5) < 4.5 * 0.5 / 4000**0.5).all())
    assert set(faces.factors["skin"].tolist()) == {0.9}


def test_faces_become_environments_with_one_attribute_as_label():
    faces = make_attribute_faces(30, seed=100)
    e = faces.environments("smile", "hat")
    np.testing.assert_array_equal(e.y, faces.c[:, 2].astype(int))
    np.testing.assert_array_equal(e.environment, faces.c[:, 1].astype(int))
    assert {"glasses", "beard", "dark_hair", "skin"} <= set(e.attributes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n must be in"),
        ({"size": 4}, "size must be in"),
        ({"attributes": []}, "at least one attribute"),
        ({"attributes": ["hat", "hat"]}, "each once"),
        ({"attributes": ["wig"]}, "attributes"),
        ({"probability": {"hat": 2.0}}, "probability of hat must be in"),
        ({"probability": {"wig": 0.5}}, "probability"),
        ({"factors": {"skin": (0.9, 0.1)}}, "upper end of skin"),
        ({"factors": {"ears": (0.0, 1.0)}}, "factors"),
        ({"c": np.zeros((3, 5))}, r"c must have shape \(10, 5\)"),
        ({"noise": -1.0}, "noise must be in"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_attribute_faces(**{"n": 10, "seed": 100, **options})
