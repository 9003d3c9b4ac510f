"""Ground sets whose best subset is known by the way they are made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from sklearn.datasets import make_moons

from holdfast.core.checks import check_choice, check_finite, check_number, check_same_length
from holdfast.core.random import spawn_seed
from holdfast.distribution.subsets.dataset import SubsetDataset

__all__ = [
    "make_anomaly_sets",
    "make_class_sets",
    "make_gaussian_sets",
    "make_relative_utility_sets",
    "make_two_moons_sets",
]

_Sizes = int | Sequence[int]


def make_relative_utility_sets(
    n_sets: int,
    *,
    set_size: int = 10,
    size: int = 3,
    best: Literal["direction", "far"] = "direction",
    spread: float = 3.0,
    seed: int,
    negatives: int | None = None,
) -> SubsetDataset:
    r"""Draw clouds in the plane in which the best points are best among their own company only.

    The centre is :math:`c \sim N(0, s^2 I)`, the points :math:`(c + N(0, I)) / 3`. S are the ``size`` points that are
    largest along (1, -1) (``"direction"``), or farthest from the mean of V (``"far"``). Neither changes when V is moved
    or scaled by a positive number.

    Args:
        n_sets, set_size, size: ground sets, points of each, and of each S.
        best: what makes a point good.
        spread: s.
        seed: fixes everything drawn.
        negatives: see :class:`SubsetDataset`.

    Examples:
        >>> data = make_relative_utility_sets(5, seed=0)
        >>> data.V.shape, data.S.sum(1)
        (torch.Size([5, 10, 2]), tensor([3, 3, 3, 3, 3]))
    """
    check_number("n_sets", n_sets, low=1, integer=True)
    check_number("set_size", set_size, low=2, integer=True)
    check_number("size", size, low=1, high=set_size - 1, integer=True)
    check_number("spread", spread, low=0)
    check_choice("best", best, ["direction", "far"])
    rng = np.random.default_rng(spawn_seed(seed, "relative utility"))
    V = (spread * rng.standard_normal((n_sets, 1, 2)) + rng.standard_normal((n_sets, set_size, 2))) / 3
    good = V[..., 0] - V[..., 1] if best == "direction" else np.linalg.norm(V - V.mean(1, keepdims=True), axis=-1)
    S = good.argsort(1).argsort(1) >= set_size - size
    return SubsetDataset(torch.from_numpy(V.astype(np.float32)), torch.from_numpy(S), negatives=negatives)


def make_anomaly_sets(
    x: Any,
    y: Any,
    set_size: int,
    n_odd: _Sizes,
    n_sets: int,
    *,
    seed: int,
    negatives: int | None = 1,
) -> SubsetDataset:
    """Draw sets of one class in which a few elements are of another class; these are the best subset.

    Both classes are random, so that every class is normal in some sets and odd in others.

    Args:
        x: samples (n, ...).
        y: their classes.
        set_size: elements of a ground set.
        n_odd: odd elements, one number or several to choose from.
        n_sets: ground sets.
        seed: fixes everything drawn.
        negatives: see :class:`SubsetDataset`.

    Raises:
        ValueError: where a class has fewer samples than a set needs, or there is one class only.

    Examples:
        >>> data = make_anomaly_sets(torch.arange(40.0)[:, None], [0] * 20 + [1] * 20, 8, (2, 3), 5, seed=0)
        >>> data.V.shape, set(data.S.sum(1).tolist()) <= {2, 3}
        (torch.Size([5, 8, 1]), True)
    """
    codes, sizes = _classes(x, y, set_size, n_odd, n_sets)
    rng = np.random.default_rng(spawn_seed(seed, "anomalies"))
    k, n_classes = rng.choice(sizes, n_sets), int(codes.max()) + 1
    if n_classes < 2:
        raise ValueError("odd elements need a second class, got one class only")
    common = rng.integers(n_classes, size=n_sets)
    odd = (common + rng.integers(1, n_classes, size=n_sets)) % n_classes
    normal = _draw(rng, codes, [np.flatnonzero(codes == c) for c in range(n_classes)], common, set_size)
    strange = _draw(rng, codes, [np.flatnonzero(codes == c) for c in range(n_classes)], odd, max(sizes))
    return _mixed(x, normal, strange, k, rng, negatives)


def make_class_sets(
    x: Any,
    y: Any,
    classes: Sequence[Any],
    set_size: int,
    n_best: _Sizes,
    n_sets: int,
    *,
    seed: int,
    negatives: int | None = 1,
) -> SubsetDataset:
    """Draw sets of all classes in which the elements of some classes are best: here the company does not matter.

    Args:
        x: samples (n, ...).
        y: their classes.
        classes: the classes whose elements are best.
        set_size, n_best, n_sets, seed, negatives: as in :func:`make_anomaly_sets`.

    Examples:
        >>> data = make_class_sets(torch.arange(40.0)[:, None], [0, 1, 2, 3] * 10, [1], 8, 2, 5, seed=0)
        >>> data.V[data.S].remainder(4).unique()
        tensor([1.])
    """
    labels = np.asarray(y)
    codes, sizes = _classes(x, np.isin(labels, np.asarray(classes)), set_size, n_best, n_sets)
    if codes.max() == 0:
        raise ValueError(f"classes {list(classes)} must hold some of the samples and not all of them")
    rng = np.random.default_rng(spawn_seed(seed, "classes"))
    groups = [np.flatnonzero(codes == c) for c in (0, 1)]
    rest = _draw(rng, codes, groups, np.zeros(n_sets, dtype=int), set_size)
    best = _draw(rng, codes, groups, np.ones(n_sets, dtype=int), max(sizes))
    return _mixed(x, rest, best, rng.choice(sizes, n_sets), rng, negatives)


def make_two_moons_sets(
    n_sets: int,
    *,
    set_size: int = 100,
    size: int = 10,
    noise: float = 0.1,
    seed: int,
    negatives: int | None = 1,
) -> SubsetDataset:
    """Draw sets from two moons: S are ``size`` points of one moon, either with equal probability, the rest the other.

    Source: Ou et al. (EquiVSet), NeurIPS 2022, section 6.1.

    Examples:
        >>> data = make_two_moons_sets(4, seed=0)
        >>> data.V.shape, data.S.sum(1)
        (torch.Size([4, 100, 2]), tensor([10, 10, 10, 10]))
    """
    check_number("noise", noise, low=0)
    rng = np.random.default_rng(spawn_seed(seed, "two moons"))
    which = _halves(rng, n_sets, set_size, size)
    # Both moons at once, with exactly as many points as are needed; sets then take theirs in turn.
    counts = [int(size * (which == m).sum() + (set_size - size) * (which != m).sum()) for m in (0, 1)]
    points: Any = (counts[0], counts[1])
    x, moon = make_moons(points, noise=noise, random_state=int(rng.integers(2**31 - 1)))
    return _two(rng, which, [x[moon == 0], x[moon == 1]], set_size, size, negatives)


def make_gaussian_sets(
    n_sets: int,
    *,
    set_size: int = 100,
    size: int = 10,
    seed: int,
    negatives: int | None = 1,
) -> SubsetDataset:
    r"""Draw sets from two Gaussians :math:`N(\pm(1, 1) / \sqrt 2, I / 4)`, one for S and the other for the rest.

    Source: Ou et al. (EquiVSet), NeurIPS 2022, section 6.1.

    Examples:
        >>> data = make_gaussian_sets(4, seed=0)
        >>> data.V.shape, data.S.sum(1)
        (torch.Size([4, 100, 2]), tensor([10, 10, 10, 10]))
    """
    rng = np.random.default_rng(spawn_seed(seed, "two Gaussians"))
    which = _halves(rng, n_sets, set_size, size)
    total = n_sets * set_size
    clouds = [sign * 0.5**0.5 + 0.5 * rng.standard_normal((total, 2)) for sign in (1, -1)]
    return _two(rng, which, clouds, set_size, size, negatives)


def _halves(rng: np.random.Generator, n_sets: int, set_size: int, size: int) -> np.ndarray:
    check_number("n_sets", n_sets, low=1, integer=True)
    check_number("set_size", set_size, low=2, integer=True)
    check_number("size", size, low=1, high=set_size - 1, integer=True)
    return rng.integers(2, size=n_sets)


def _two(
    rng: np.random.Generator,
    which: np.ndarray,
    clouds: Sequence[np.ndarray],
    set_size: int,
    size: int,
    negatives: int | None,
) -> SubsetDataset:
    """Fill sets from two clouds of points, ``size`` from the one of the set and the rest from the other."""
    S = rng.permuted(np.tile(np.arange(set_size) < size, (len(which), 1)), axis=1)
    source = np.where(S, which[:, None], 1 - which[:, None])
    V = np.empty((*S.shape, 2), dtype=np.float32)
    for m, cloud in enumerate(clouds):
        here = source == m
        V[here] = rng.permutation(cloud)[: here.sum()]
    return SubsetDataset(torch.from_numpy(V), torch.from_numpy(S), negatives=negatives)


def _classes(x: Any, y: Any, set_size: int, counts: _Sizes, n_sets: int) -> tuple[np.ndarray, list[int]]:
    check_same_length(x=x, y=y)
    check_finite("x", torch.as_tensor(x))
    check_number("n_sets", n_sets, low=1, integer=True)
    check_number("set_size", set_size, low=2, integer=True)
    sizes = [counts] if isinstance(counts, int) else list(counts)
    for k in sizes:
        check_number("number of elements of the best subset", k, low=1, high=set_size - 1, integer=True)
    return np.unique(np.asarray(y), return_inverse=True)[1], sizes


def _draw(
    rng: np.random.Generator, codes: np.ndarray, members: Sequence[np.ndarray], wanted: np.ndarray, count: int
) -> np.ndarray:
    """Return ``count`` different rows of the wanted class for every set."""
    rows = np.empty((len(wanted), count), dtype=np.int64)
    for c, pool in enumerate(members):
        here = np.flatnonzero(wanted == c)
        if len(here) and len(pool) < count:
            raise ValueError(f"a set needs {count} samples of one class, and class {c} has {len(pool)}")
        keys = rng.random((len(here), len(pool)))
        rows[here] = pool[np.argpartition(keys, count - 1, axis=1)[:, :count]] if len(here) else rows[here]
    return rows


def _mixed(
    x: Any, rest: np.ndarray, best: np.ndarray, k: np.ndarray, rng: np.random.Generator, negatives: int | None
) -> SubsetDataset:
    """Put ``k`` of the best rows at random places among the rest."""
    n = rest.shape[1]
    place = rng.permuted(np.tile(np.arange(n), (len(rest), 1)), axis=1)
    S = place < k[:, None]
    rows = np.where(S, np.take_along_axis(best, np.minimum(place, best.shape[1] - 1), axis=1), rest)
    return SubsetDataset(torch.as_tensor(x)[torch.from_numpy(rows)], torch.from_numpy(S), negatives=negatives)
