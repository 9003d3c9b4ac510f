"""Coloured shapes: procedural images whose class is the shape and whose colour misleads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, UInt8

from holdfast.core.checks import check_choice, check_number
from holdfast.core.random import spawn_seed
from holdfast.data.environments import Environments
from holdfast.data.shifts.label_noise import uniform_label_noise
from holdfast.data.shifts.pool import check_values, environment_names
from holdfast.data.shifts.spurious import palette, spurious_attribute

__all__ = ["SHAPES", "coloured_shapes", "render_shapes"]

Field = Float[np.ndarray, "n h w"]


def _box(u: Field, v: Field, a: float, b: float) -> Field:
    return np.maximum(np.abs(u) - a, np.abs(v) - b)


def _polygon(u: Field, v: Field, sides: int, inner: float) -> Field:
    angles = 2 * np.pi * np.arange(sides) / sides
    return np.max([np.cos(t) * u + np.sin(t) * v for t in angles], axis=0) - inner


SHAPES: Mapping[str, Callable[[Field, Field], Field]] = {
    "circle": lambda u, v: np.hypot(u, v) - 0.85,
    "square": lambda u, v: _box(u, v, 0.72, 0.72),
    "triangle": lambda u, v: _polygon(u, v, 3, 0.5),
    "cross": lambda u, v: np.minimum(_box(u, v, 1.0, 0.3), _box(u, v, 0.3, 1.0)),
    "ring": lambda u, v: np.abs(np.hypot(u, v) - 0.75) - 0.25,
    "star": lambda u, v: np.minimum(_polygon(u, v, 3, 0.45), _polygon(-u, v, 3, 0.45)),
    "bar": lambda u, v: _box(u, v, 1.0, 0.32),
    "half_disc": lambda u, v: np.maximum(np.hypot(u, v + 0.4) - 0.95, -(v + 0.4)),
}
"""Level functions inside the circle of radius one, negative inside the shape, by name."""

_CHUNK_PIXELS = 2**21


def render_shapes(
    shapes: Sequence[str],
    which: np.ndarray,
    colours: Float[np.ndarray, "n 3"],
    *,
    size: int,
    seed: int,
) -> UInt8[np.ndarray, "n 3 size size"]:
    """Draw one shape per image at a random place, size and angle on a dark, noisy ground.

    The radius is 20 to 40 percent of the side, the whole shape is in the picture, its edge is smoothed over a pixel,
    and the colour's brightness varies by up to 30 percent.

    Args:
        shapes: keys of ``SHAPES``.
        which: (n,) index into ``shapes``.
        colours: one RGB triple in [0, 1] per image.
        size: side in pixels, at least 8.
        seed: fixes everything drawn.

    Examples:
        >>> x = render_shapes(["circle"], np.zeros(2, int), np.array([[1, 0, 0], [0, 1, 0]]), size=16, seed=1)
        >>> x.shape, x.mean(axis=(2, 3)).argmax(axis=1).tolist()
        ((2, 3, 16, 16), [0, 1])
    """
    check_number("size", size, low=8, integer=True)
    for shape in shapes:
        check_choice("shapes", shape, list(SHAPES))
    n, rng = len(which), np.random.default_rng(spawn_seed(seed, "shapes"))
    radius = size * rng.uniform(0.20, 0.40, n)
    centre = radius[:, None] + rng.random((n, 2)) * (size - 2 * radius[:, None])
    angle = rng.uniform(0, 2 * np.pi, n)
    lit = np.asarray(colours, dtype=np.float64) * rng.uniform(0.7, 1.0, (n, 1))
    pixel = np.arange(size, dtype=np.float32) + 0.5
    out = np.empty((n, 3, size, size), np.uint8)
    step = max(1, _CHUNK_PIXELS // size**2)
    for start in range(0, n, step):
        rows = slice(start, start + step)
        r, c, t = (a[rows].astype(np.float32) for a in (radius, centre, angle))
        across = (pixel[None, None, :] - c[:, 0, None, None]) / r[:, None, None]
        down = (pixel[None, :, None] - c[:, 1, None, None]) / r[:, None, None]
        cos, sin = np.cos(t)[:, None, None], np.sin(t)[:, None, None]
        u, v = cos * across + sin * down, cos * down - sin * across
        level = np.empty_like(u)
        for k, shape in enumerate(shapes):
            own = which[rows] == k
            if own.any():
                level[own] = SHAPES[shape](u[own], v[own])
        cover = np.clip(0.5 - level * r[:, None, None], 0, 1)[:, None]
        ground = 0.1 + 0.05 * rng.standard_normal((len(r), 1, size, size), dtype=np.float32)
        image = (1 - cover) * ground + cover * lit[rows, :, None, None]
        out[rows] = np.round(255 * np.clip(image, 0, 1))
    return out


def coloured_shapes(
    n: int = 1000,
    *,
    strengths: Sequence[float] = (0.9, 0.8, 0.1),
    size: int = 32,
    shapes: Sequence[str] = ("circle", "square", "triangle", "cross"),
    label_noise: float = 0.0,
    seed: int,
) -> Environments:
    """Draw images whose label is the shape, and whose colour is that of the label with a given probability.

    Args:
        n: images of every environment; classes are equal to within one.
        strengths: P(colour = label), one per environment; ``1 / len(shapes)`` is no correlation.
        size: side in pixels, at least 8.
        shapes: keys of ``SHAPES``, one per class; at least two.
        label_noise: share of labels replaced by another class before the colour is drawn.
        seed: fixes everything drawn.

    Returns:
        uint8 images (n, 3, size, size), labels named by the shape, environments named ``strength=0.9`` and so on,
        attributes ``colour`` (the class the colour points to) and ``shape`` (what is drawn).

    Examples:
        >>> e = coloured_shapes(6, strengths=(1.0, 0.0), shapes=("circle", "square"), size=16, seed=1)
        >>> e.x.shape, (e.attributes["colour"] == e.y).tolist() == (e.environment == 0).tolist()
        ((12, 3, 16, 16), True)
    """
    check_number("n", n, low=2, integer=True)
    check_number("label_noise", label_noise, low=0, high=1)
    shapes = list(shapes)
    if len(shapes) < 2 or len(set(shapes)) < len(shapes):
        raise ValueError(f"shapes must name at least two different shapes, got {shapes}")
    values = np.array(check_values("strengths", strengths, low=0, high=1))
    k, e = len(shapes), len(values)
    codes = np.repeat(np.arange(e), n)
    rng = np.random.default_rng(spawn_seed(seed, "classes"))
    drawn = rng.permuted(np.tile(np.arange(n) % k, (e, 1)), axis=1).ravel()
    labels = uniform_label_noise(drawn, label_noise, k, seed=spawn_seed(seed, "labels"), include_true=False)
    colour = spurious_attribute(labels, k, values[codes], seed=spawn_seed(seed, "colour"))
    x = render_shapes(shapes, drawn, palette(k)[colour], size=size, seed=spawn_seed(seed, "render"))
    names = np.array(shapes)
    return Environments(
        x=x,
        y=names[labels],
        environment=codes,
        names=environment_names("strength", strengths),
        attributes={"colour": names[colour], "shape": names[drawn]},
    )
