"""Drawn faces: binary attributes that are asked for, nuisance that is not, and the truth of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from holdfast.core.checks import check_choice, check_number
from holdfast.core.random import spawn_seed
from holdfast.data.environments import Environments

__all__ = ["FACE_ATTRIBUTES", "FACE_FACTORS", "AttributeFaces", "draw_faces", "make_attribute_faces"]

FACE_ATTRIBUTES = (
    "glasses", "hat", "smile", "beard", "dark_hair", "red_hair", "nose", "earrings", "scarf", "skin_tone",
)  # fmt: skip
"""What a face can have; the first five are the usual ones, the last is a number from 0 to 1."""

FACE_FACTORS: Mapping[str, tuple[float, float]] = {
    "x": (-0.15, 0.15),
    "y": (-0.05, 0.2),
    "width": (0.45, 0.65),
    "height": (0.6, 0.75),
    "skin": (0.55, 0.8),
}
"""Range of every nuisance: place, half-axes and grey of the head; the picture spans -1 to 1, y points down."""

_CHUNK_PIXELS = 2**21


@dataclass(frozen=True)
class AttributeFaces:
    """Drawn faces with all that they were drawn from.

    Attributes:
        x: (n, channels, size, size) in [0, 1].
        c: (n, A), 0 or 1 (``skin_tone``: 0 to 1).
        names: of the attributes.
        factors: (n,) by nuisance.
    """

    x: Float32[np.ndarray, "n channels size size"]
    c: Float32[np.ndarray, "n attributes"]
    names: tuple[str, ...]
    factors: dict[str, Float[np.ndarray, " n"]]

    def environments(self, label: str, environment: str | None = None) -> Environments:
        """Return the faces with one attribute as label, another as environment, and the rest as attributes."""
        for name in (label, environment):
            if name is not None:
                check_choice("attribute", name, list(self.names))
        column = {name: self.c[:, k] for k, name in enumerate(self.names)}
        y = column.pop(label).astype(np.int64)
        where = None if environment is None else column.pop(environment).astype(np.int64)
        return Environments.from_arrays(self.x, y, where, column | self.factors)


def _soft(t: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(6 * t))  # the logistic function of 12 t


def draw_faces(
    c: Float[np.ndarray, "n attributes"],
    factors: Mapping[str, Float[np.ndarray, " n"]],
    *,
    size: int = 20,
    attributes: Sequence[str] = FACE_ATTRIBUTES[:5],
    colour: bool = False,
) -> Float32[np.ndarray, "n channels size size"]:
    """Draw faces without noise: attributes ``c`` (columns named by ``attributes``), nuisance ``factors``.

    Raises:
        ValueError: for an attribute or a nuisance that is not there, or columns that do not fit.

    Examples:
        >>> middle = {name: np.full(1, 0.5 * (low + high)) for name, (low, high) in FACE_FACTORS.items()}
        >>> draw_faces(np.zeros((1, 5)), middle).shape
        (1, 1, 20, 20)
    """
    check_number("size", size, low=8, integer=True)
    for name in attributes:
        check_choice("attributes", name, list(FACE_ATTRIBUTES))
    c = np.asarray(c, dtype=np.float32)
    if c.ndim != 2 or c.shape[1] != len(attributes):
        raise ValueError(f"c must have shape (n, {len(attributes)}), one column for each attribute, got {c.shape}")
    if set(factors) != set(FACE_FACTORS):
        raise ValueError(f"factors must be {', '.join(FACE_FACTORS)}, got {', '.join(sorted(factors))}")
    n, step = len(c), max(1, _CHUNK_PIXELS // size**2)
    out = np.empty((n, 3 if colour else 1, size, size), np.float32)
    for start in range(0, n, step):
        rows = slice(start, start + step)
        has = {name: c[rows, k, None, None] for k, name in enumerate(attributes)}
        at = {name: np.asarray(factors[name], dtype=np.float32)[rows, None, None] for name in FACE_FACTORS}
        out[rows] = _draw(has, at, size, colour)
    return out


def _draw(has: dict[str, np.ndarray], at: dict[str, np.ndarray], size: int, colour: bool) -> np.ndarray:
    line = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
    x, y = line[None, None, :], line[None, :, None]
    cx, cy, w, h, skin = (at[k] for k in ("x", "y", "width", "height", "skin"))
    zero = np.zeros_like(cx)
    share = {name: has.get(name, zero) for name in FACE_ATTRIBUTES}
    picture = np.full((len(cx), 3 if colour else 1, size, size), 0.1, np.float32)

    def paint(cover: np.ndarray, grey: np.ndarray | float, tint: tuple[float, float, float] = (1, 1, 1)) -> None:
        value = np.broadcast_to(np.asarray(grey, dtype=np.float32), cx.shape)[:, None]
        shade = np.array(tint if colour else (1.0,), np.float32)[None, :, None, None]
        picture[:] = picture * (1 - cover[:, None]) + cover[:, None] * np.clip(value * shade, 0, 1)

    def ellipse(px: np.ndarray, py: np.ndarray, a: np.ndarray | float, b: np.ndarray | float) -> np.ndarray:
        return 1 - np.hypot((x - px) / a, (y - py) / b)

    head = _soft(ellipse(cx, cy, w, h))
    tone = np.where(np.full_like(cx, "skin_tone" in has), 1.15 - 0.6 * share["skin_tone"], 1.0)
    paint(head, skin * tone, (1.1, 0.95, 0.8))
    hair = _soft(ellipse(cx, cy, 1.1 * w, 1.1 * h)) * _soft((cy - 0.45 * h - y) / 0.3)
    grey = np.where(share["dark_hair"] > 0.5, 0.25, 0.95) if "dark_hair" in has else 0.6
    red = (share["red_hair"] > 0.5).astype(np.float32)
    paint(hair * (1 - red), grey, (1.0, 0.9, 0.6))
    paint(hair * red, 0.8 * np.asarray(grey), (1.3, 0.6, 0.3))
    for side in (-1, 1):
        ex, ey = cx + side * 0.45 * w, cy - 0.1 * h
        paint(_soft(ellipse(ex, ey, 0.1, 0.1)), 0.05)
        distance = np.hypot(x - ex, y - ey)
        paint(share["glasses"] * _soft(1 - np.abs(distance - 0.2) / 0.05), 0.0)
        paint(share["earrings"] * _soft(ellipse(cx + side * 1.02 * w, cy + 0.2 * h, 0.09, 0.09)), 1.0, (1, 0.9, 0.2))
    paint(share["nose"] * _soft(ellipse(cx, cy + 0.15 * h, 0.06, 0.16)), 0.35, (1.2, 0.8, 0.7))
    beard = head * _soft((y - cy - 0.62 * h) / 0.3)
    paint(share["beard"] * beard, 0.2, (1.0, 0.85, 0.7))
    bend = 2 * (share["smile"] > 0.5).astype(np.float32) - 1 if "smile" in has else zero
    curve = cy + 0.45 * h - bend * 0.12 * (2 * ((x - cx) / (0.45 * w)) ** 2 - 1)
    mouth = _soft(1 - np.abs(y - curve) / 0.06) * _soft(1 - np.abs(x - cx) / (0.45 * w))
    paint(mouth, 0.05, (4.0, 0.8, 0.8))
    box = np.minimum(1 - np.abs(x - cx) / (0.9 * w), 1 - np.abs(y - cy + h) / (0.25 * h))
    paint(share["hat"] * _soft(box), 0.4, (0.5, 0.8, 1.8))
    scarf = np.minimum(1 - np.abs(x - cx) / (0.9 * w), 1 - np.abs(y - cy - 1.1 * h) / 0.12)
    paint(share["scarf"] * _soft(scarf), 0.7, (0.5, 1.3, 0.6))
    return np.clip(picture, 0, 1)


def make_attribute_faces(
    n: int,
    size: int = 20,
    attributes: Sequence[str] = FACE_ATTRIBUTES[:5],
    seed: int = 0,
    *,
    probability: float | Mapping[str, float] = 0.5,
    factors: Mapping[str, tuple[float, float]] | None = None,
    colour: bool = False,
    noise: float = 0.02,
    c: Float[np.ndarray, "n attributes"] | None = None,
) -> AttributeFaces:
    """Draw faces with independent attributes, and nuisance uniform in its ranges.

    Shifts come from the arguments: other probabilities, other ranges of a nuisance, or attributes of your own.

    Args:
        n: faces.
        size: side in pixels, at least 8.
        attributes: names out of ``FACE_ATTRIBUTES``.
        seed: fixes everything drawn; the same seed draws the same nuisance and noise whatever the attributes.
        probability: of every attribute, or by name (0.5 where it has none); ``skin_tone`` is uniform.
        factors: ranges of nuisance that replace those of ``FACE_FACTORS``.
        colour: three channels rather than one.
        noise: deviation of the noise of every pixel, before clipping to [0, 1].
        c: the attributes themselves, in place of probabilities.

    Raises:
        ValueError: for names that are not there, numbers out of range, or ``c`` of another shape.

    Source: after the images of CelebA in Debbagh, "Learning structured output representations from attributes using
    deep conditional generative models", 2023, which cannot be passed on.

    Examples:
        >>> faces = make_attribute_faces(4, seed=1)
        >>> faces.x.shape, faces.c.shape, sorted(faces.factors)
        ((4, 1, 20, 20), (4, 5), ['height', 'skin', 'width', 'x', 'y'])
    """
    check_number("n", n, low=1, integer=True)
    check_number("noise", noise, low=0)
    names = tuple(attributes)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"attributes must name at least one attribute, each once, got {list(names)}")
    for name in names:
        check_choice("attributes", name, list(FACE_ATTRIBUTES))
    wanted = dict(probability) if isinstance(probability, Mapping) else dict.fromkeys(names, probability)
    for name, p in wanted.items():
        check_choice("probability", name, list(names))
        check_number(f"probability of {name}", p, low=0, high=1)
    ranges = dict(FACE_FACTORS)
    for name, (low, high) in (factors or {}).items():
        check_choice("factors", name, list(FACE_FACTORS))
        check_number(f"upper end of {name}", high, low=low)
        ranges[name] = (low, high)
    u = np.random.default_rng(spawn_seed(seed, "attributes")).random((n, len(names)))
    if c is None:
        c = np.stack(
            [u[:, k] if name == "skin_tone" else u[:, k] < wanted.get(name, 0.5) for k, name in enumerate(names)], 1
        )
    given = np.asarray(c, dtype=np.float32)
    if given.shape != (n, len(names)):
        raise ValueError(f"c must have shape ({n}, {len(names)}), one column for each attribute, got {given.shape}")
    rng = np.random.default_rng(spawn_seed(seed, "nuisance"))
    drawn = {name: rng.uniform(low, high, n) for name, (low, high) in ranges.items()}
    x = draw_faces(given, drawn, size=size, attributes=names, colour=colour)
    grain = np.random.default_rng(spawn_seed(seed, "noise")).standard_normal(x.shape, dtype=np.float32)
    return AttributeFaces(np.clip(x + noise * grain, 0, 1), given, names, drawn)
