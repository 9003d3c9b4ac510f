"""Environments in which something spurious goes along with the label, more in some and less in others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from holdfast.core.checks import check_number
from holdfast.core.random import spawn_seed
from holdfast.data.environments import Environments
from holdfast.data.errors import DataError
from holdfast.data.shifts.label_noise import uniform_label_noise
from holdfast.data.shifts.pool import check_values, divide, environment_names, gather, pool
from holdfast.data.shifts.spurious import append_feature, paint_background, palette, spurious_attribute, tint

__all__ = ["spurious_background_environments", "spurious_colour_environments", "spurious_feature_environments"]


@dataclass(frozen=True)
class _Draw:
    """The pooled samples with their attribute drawn."""

    one: Environments
    codes: np.ndarray
    names: tuple[str, ...]
    attribute: np.ndarray
    n_values: int
    clean: dict[str, np.ndarray]

    def environments(self, x: Any, name: str) -> Environments:
        return gather(self.one, self.codes, self.names, x=x, attributes={name: self.attribute, **self.clean})


def _draw(one: Environments, strengths: Any, label_noise: float, groups: int | None, seed: int) -> _Draw:
    values = np.array(check_values("strengths", strengths, low=0, high=1))
    check_number("label_noise", label_noise, low=0, high=1)
    if groups is not None:
        k = len(one.classes)
        check_number("groups", groups, low=2, high=k, integer=True)
        one = replace(one, y=one.labels * groups // k)
    if len(one.classes) < 2:
        raise DataError(f"a spurious attribute needs at least two classes, got {one.classes.tolist()}")
    codes, clean = divide(one, len(values), seed), {}
    labels, n = one.labels, len(one.classes)
    if label_noise > 0:
        # The attribute follows the label as it is seen, so that it can predict better than the input itself.
        clean = {"clean_label": one.y}
        labels = uniform_label_noise(labels, label_noise, n, seed=spawn_seed(seed, "label noise"), include_true=False)
        one = replace(one, y=one.classes[labels])
    attribute = spurious_attribute(labels, n, values[codes], seed=spawn_seed(seed, "attribute"))
    return _Draw(one, codes, environment_names("strength", strengths), attribute, n, clean)


def spurious_colour_environments(
    x: Any,
    y: Any,
    *,
    seed: int,
    strengths: Sequence[float] = (0.9, 0.8, 0.1),
    label_noise: float = 0.0,
    groups: int | None = None,
    amount: float = 1.0,
) -> Environments:
    """Divide the images at random; paint each in the colour of its class with the environment's probability.

    The other images take any other colour, all equally likely. Coloured digits are ``groups=2,
    label_noise=0.25``. The attribute ``colour`` holds the colour's code, ``clean_label`` the label before noise.

    Args:
        x: grey images (which gain colour channels) or RGB images.
        y: labels.
        seed: fixes everything drawn.
        strengths: P(colour = class), one per environment; ``1 / classes`` is no correlation.
        label_noise: share of labels replaced by another class before the colour is drawn.
        groups: merge the classes, in order, into this many.
        amount: 1 paints the whole image in one hue, less leaves some of its own colour.

    Source: Arjovsky et al., "Invariant risk minimization", 2019, section 5.2.

    Examples:
        >>> e = spurious_colour_environments(np.ones((4, 8, 8)) , [0, 1, 0, 1], seed=1, strengths=(1, 0))
        >>> e.names, e.x.shape, (e.only("strength=1").attributes["colour"] == e.only("strength=1").y).tolist()
        (('strength=1', 'strength=0'), (4, 3, 8, 8), [True, True])
    """
    d = _draw(
        pool(x, y, "spurious-colour", kinds=("image",), task="classification"),
        strengths,
        label_noise,
        groups,
        seed,
    )
    return d.environments(tint(d.one.x, palette(d.n_values)[d.attribute], amount=amount), "colour")


def spurious_background_environments(
    x: Any,
    y: Any,
    *,
    seed: int,
    strengths: Sequence[float] = (0.9, 0.8, 0.1),
    label_noise: float = 0.0,
    groups: int | None = None,
    softness: float = 0.25,
) -> Environments:
    """Divide the images at random; give each the background colour of its class with the environment's probability.

    The attribute ``background`` holds the colour's code.

    Args:
        x: grey or RGB images of one object before a plain ground; bytes, or floats in [0, 1].
        y: labels.
        seed: fixes everything drawn.
        strengths: P(background = class), one per environment.
        label_noise, groups: as in :func:`spurious_colour_environments`.
        softness: see :func:`~holdfast.data.shifts.spurious.paint_background`.

    Source: Sagawa et al., "Distributionally robust neural networks for group shifts", ICLR 2020 (waterbirds), in
    spirit; the backgrounds here are plain colours.

    Examples:
        >>> x = np.zeros((4, 8, 8), np.uint8)
        >>> spurious_background_environments(x, [0, 1, 0, 1], seed=1, strengths=(1, 0)).x.shape
        (4, 3, 8, 8)
    """
    d = _draw(
        pool(x, y, "spurious-background", kinds=("image",), task="classification"),
        strengths,
        label_noise,
        groups,
        seed,
    )
    painted = paint_background(d.one.x, palette(d.n_values)[d.attribute], softness=softness)
    return d.environments(painted, "background")


def spurious_feature_environments(
    x: Any,
    y: Any,
    *,
    seed: int,
    strengths: Sequence[float] = (0.9, 0.8, 0.1),
    label_noise: float = 0.0,
    groups: int | None = None,
    noise: float = 0.3,
    scale: float = 1.0,
) -> Environments:
    """Divide the samples at random; append a feature that agrees with the class with the environment's probability.

    Two classes give one feature, -1 or 1 plus noise; K > 2 give K, one per class. They are as large as the other
    features are on average. The attribute ``spurious`` holds the class the feature points to.

    Args:
        x: vectors, or a table (which gains numeric columns ``spurious_0``, ...).
        y: labels.
        seed: fixes everything drawn.
        strengths: P(feature = class), one per environment.
        label_noise, groups: as in :func:`spurious_colour_environments`.
        noise: deviation of the normal noise on the new feature, whose values are -1 and 1.
        scale: size of the new features, in units of the average deviation of the given ones.

    Examples:
        >>> spurious_feature_environments(np.zeros((4, 2)), [0, 1, 0, 1], seed=1, strengths=(1, 0)).x.shape
        (4, 3)
    """
    check_number("scale", scale, low=0)
    one = pool(x, y, "spurious-feature", kinds=("vector", "table"), task="classification")
    d = _draw(one, strengths, label_noise, groups, seed)
    if isinstance(d.one.x, pd.DataFrame):
        numeric = d.one.x.select_dtypes("number").to_numpy(dtype=np.float64, na_value=np.nan)
    else:
        numeric = d.one.x
    deviation = float(np.nanmean(np.nanstd(numeric, axis=0))) if numeric.shape[1] else 1.0
    base = np.empty((len(d.one), 0)) if isinstance(d.one.x, pd.DataFrame) else d.one.x
    wide = append_feature(
        base,
        d.attribute,
        d.n_values,
        noise=noise,
        scale=scale * (deviation or 1.0),
        seed=spawn_seed(seed, "feature"),
    )
    if isinstance(d.one.x, pd.DataFrame):
        columns = {f"spurious_{j}": wide[:, j] for j in range(wide.shape[1])}
        taken = [c for c in columns if c in d.one.x.columns]
        if taken:
            raise DataError(f"the table already has a column {taken[0]!r}; rename it")
        wide = d.one.x.assign(**columns)
    return d.environments(wide, "spurious")
