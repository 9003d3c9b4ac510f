"""Environments whose inputs were moved or degraded: rotation, translation, scale, corruption."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from holdfast.core.checks import check_choice, check_number
from holdfast.core.random import spawn_seed
from holdfast.data.environments import Environments
from holdfast.data.shifts.corruptions import CORRUPTIONS, corrupt
from holdfast.data.shifts.geometry import rotate, rotate_vectors, scale, translate
from holdfast.data.shifts.pool import check_values, divide, environment_names, gather, pool

__all__ = ["corruption_environments", "rotation_environments", "scale_environments", "translation_environments"]


def rotation_environments(
    x: Any,
    y: Any,
    *,
    seed: int,
    angles: Sequence[float] = (0, 15, 30, 45, 60, 75),
    plane: tuple[int, int] = (0, 1),
) -> Environments:
    """Divide the samples at random; rotate each part by its angle.

    Args:
        x: images, or vectors.
        y: labels.
        seed: fixes the division.
        angles: degrees, counter-clockwise, one per environment.
        plane: the two features that turn, for vectors.

    Source: Ghifary et al., "Domain generalization for object recognition with multi-task autoencoders",
    ICCV 2015 (rotated digits).

    Examples:
        >>> rotation_environments(np.zeros((4, 8, 8), np.uint8), [0, 1, 0, 1], seed=1, angles=(0, 90)).names
        ('rotation=0', 'rotation=90')
    """
    one = pool(x, y, "rotation", kinds=("image", "vector"))
    values = np.array(check_values("angles", angles))
    codes = divide(one, len(values), seed)
    if one.kind == "image":
        moved = rotate(one.x, values[codes])
    else:
        moved = rotate_vectors(one.x, values[codes], plane=plane)
    return gather(one, codes, environment_names("rotation", angles), x=moved)


def translation_environments(
    x: Any,
    y: Any,
    *,
    seed: int,
    amounts: Sequence[float] = (0.0, 0.1, 0.2),
    direction: float | None = None,
) -> Environments:
    """Divide the samples at random; move each part by its amount.

    An image moves by a share of its short side in ``direction``, or in a random direction of its own. Vectors
    all move along one random direction, by the amount times every feature's deviation.

    Args:
        x: images, or vectors.
        y: labels.
        seed: fixes the division and the directions.
        amounts: one per environment.
        direction: degrees counter-clockwise from the right; random per image where None. Images only.

    Examples:
        >>> translation_environments(np.zeros((4, 8, 8), np.uint8), [0, 1, 0, 1], seed=1, amounts=(0, 0.5)).names
        ('translation=0', 'translation=0.5')
    """
    one = pool(x, y, "translation", kinds=("image", "vector"))
    values = np.array(check_values("amounts", amounts))
    codes = divide(one, len(values), seed)
    rng = np.random.default_rng(spawn_seed(seed, "direction"))
    if one.kind == "image":
        if direction is None:
            radians = 2 * np.pi * rng.random(len(one))
        else:
            radians = np.full(len(one), np.deg2rad(check_number("direction", direction)))
        pixels = values[codes] * min(one.x.shape[-2:])
        moved = translate(one.x, pixels * np.cos(radians), -pixels * np.sin(radians))
    else:
        if direction is not None:
            raise ValueError(f"direction is for images; vectors move along a random direction, got {direction}")
        unit = rng.standard_normal(one.x.shape[1])
        unit /= np.linalg.norm(unit)
        moved = one.x + values[codes][:, None] * unit * one.x.std(axis=0)
        moved = moved.astype(np.result_type(one.x.dtype, np.float32))
    return gather(one, codes, environment_names("translation", amounts), x=moved)


def scale_environments(x: Any, y: Any, *, seed: int, factors: Sequence[float] = (1.0, 0.75, 1.25)) -> Environments:
    """Divide the samples at random; enlarge or shrink each part by its factor.

    Args:
        x: images (content scaled about the centre), or vectors (multiplied).
        y: labels.
        seed: fixes the division.
        factors: positive, one per environment.

    Examples:
        >>> scale_environments(np.ones((4, 2)), [0, 1, 0, 1], seed=1, factors=(1, 2)).only("scale=2").x[0].tolist()
        [2.0, 2.0]
    """
    one = pool(x, y, "scale", kinds=("image", "vector"))
    values = np.array(check_values("factors", factors))
    if (values <= 0).any():
        raise ValueError(f"factors must be positive, got {values.min():g}")
    codes = divide(one, len(values), seed)
    if one.kind == "image":
        moved = scale(one.x, values[codes])
    else:
        moved = (one.x * values[codes][:, None]).astype(np.result_type(one.x.dtype, np.float32))
    return gather(one, codes, environment_names("scale", factors), x=moved)


def corruption_environments(
    x: Any,
    y: Any,
    *,
    seed: int,
    families: Sequence[str] = ("gaussian_noise", "motion_blur", "fog", "contrast", "pixelate"),
    severities: int | Sequence[int] = 3,
    clean: bool = True,
) -> Environments:
    """Divide the samples at random; corrupt each part by its family at its severity.

    Args:
        x: images with sides of at least 8 and 1 or 3 channels; bytes, or floats in [0, 1].
        y: labels.
        seed: fixes the division and the corruption.
        families: keys of :data:`~holdfast.data.shifts.corruptions.CORRUPTIONS`, one per environment.
        severities: 1 to 5, one for all or one per family.
        clean: whether one more part, the first, is left as it is.

    Examples:
        >>> x = np.zeros((4, 8, 8), np.uint8)
        >>> corruption_environments(x, [0, 1, 0, 1], seed=1, families=("fog",)).names
        ('clean', 'fog=3')
    """
    one = pool(x, y, "corruption", kinds=("image",))
    if isinstance(families, str) or len(families) + clean < 2:
        raise ValueError(f"families must be a sequence that makes at least two environments, got {families!r}")
    for family in families:
        check_choice("families", family, list(CORRUPTIONS))
    levels = [severities] * len(families) if isinstance(severities, int) else list(severities)
    if len(levels) != len(families):
        raise ValueError(f"severities must be one number or one per family ({len(families)}), got {len(levels)}")
    for level in levels:
        check_number("severities", level, low=0, high=5, integer=True)
    codes = divide(one, len(families) + clean, seed)
    moved = np.array(one.x)
    for i, (family, level) in enumerate(zip(families, levels)):
        rows = codes == i + clean
        moved[rows] = corrupt(moved[rows], family, level, seed=spawn_seed(seed, "corruption", i))
    labels = [f"{family}={level}" for family, level in zip(families, levels)]
    if len(set(labels)) < len(labels):
        raise ValueError(f"every pair of family and severity must differ, got {labels}")
    return gather(one, codes, ("clean", *labels) if clean else labels, x=moved)
