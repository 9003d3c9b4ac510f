"""Which samples are seen: label priors, covariate selection, long tails. Functions return row numbers or codes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int64

from holdfast.core.checks import check_number
from holdfast.core.random import spawn_seed

__all__ = ["covariate_environments", "label_prior_subsample", "long_tail_subsample", "random_parts", "tilted_priors"]


def random_parts(n: int, parts: int, *, seed: int, strata: Int64[np.ndarray, "n"] | None = None) -> np.ndarray:
    """Return a code in [0, parts) per row: parts of equal size to within one row, in every stratum too.

    Examples:
        >>> np.bincount(random_parts(7, 3, seed=1)).tolist()
        [3, 2, 2]
    """
    check_number("parts", parts, low=1, integer=True)
    rng = np.random.default_rng(spawn_seed(seed, "parts"))
    key = rng.random(n)
    order = np.lexsort((key, strata)) if strata is not None else np.argsort(key)
    # Dealing out in the order of the strata keeps every stratum, and the total, equal to within one.
    codes = np.empty(n, np.int64)
    codes[order] = np.arange(n) % parts
    return codes


def tilted_priors(n_environments: int, n_classes: int, tilt: float) -> Float[np.ndarray, "environments classes"]:
    r"""Class priors ``softmax_k(tilt * cos 2 pi (k / K - e / E))``: every environment prefers other classes.

    ``tilt = 0`` gives equal classes everywhere.

    Examples:
        >>> tilted_priors(2, 2, math.log(3) / 2).round(3).tolist()
        [[0.75, 0.25], [0.25, 0.75]]
    """
    e, k = np.arange(n_environments)[:, None], np.arange(n_classes)[None, :]
    weight = np.exp(tilt * np.cos(2 * np.pi * (k / n_classes - e / n_environments)))
    return weight / weight.sum(axis=1, keepdims=True)


def label_prior_subsample(
    labels: Int64[np.ndarray, "n"], prior: Float[np.ndarray, " classes"], *, seed: int
) -> Int64[np.ndarray, "m"]:
    """Return the rows of the largest sample without repetition whose class shares are ``prior``.

    Counts are within one sample of ``m * prior``, and p(x | y) is left alone.

    Raises:
        ValueError: where ``prior`` is no distribution, or gives weight to a class without samples.

    Source: Saerens et al., "Adjusting the outputs of a classifier to new a priori probabilities", Neural
    Computation 2002 (prior shift).

    Examples:
        >>> y = np.array([0] * 10 + [1] * 10)
        >>> np.bincount(y[label_prior_subsample(y, np.array([0.2, 0.8]), seed=1)]).tolist()
        [2, 10]
    """
    labels, prior = np.asarray(labels), np.asarray(prior, dtype=np.float64)
    if prior.ndim != 1 or not np.isfinite(prior).all() or (prior < 0).any() or abs(prior.sum() - 1) > 1e-6:
        raise ValueError(f"prior must be non-negative and sum to one, got {prior.tolist()}")
    if labels.size and int(labels.max()) >= len(prior):
        raise ValueError(f"prior must have an entry for each of the {int(labels.max()) + 1} classes, got {len(prior)}")
    have = np.bincount(labels, minlength=len(prior))
    used = prior > 0
    if (have[used] == 0).any():
        empty = int(np.flatnonzero(used & (have == 0))[0])
        raise ValueError(f"prior gives weight {prior[empty]:g} to class {empty}, of which there is no sample")
    total = math.floor(round(float((have[used] / prior[used]).min()), 6))
    count = np.floor(np.round(total * prior, 6)).astype(np.int64)
    remainder = np.where(count < have, total * prior - count, -1.0)
    count[np.argsort(-remainder, kind="stable")[: total - int(count.sum())]] += 1
    return _first_of_class(labels, np.minimum(count, have), seed)


def long_tail_subsample(
    labels: Int64[np.ndarray, "n"], ratio: float, n_classes: int, *, order: Sequence[int] | None = None, seed: int
) -> Int64[np.ndarray, "m"]:
    r"""Return rows whose class counts fall off exponentially from head to tail by a factor of ``ratio``.

    The k-th of K classes keeps ``round(n_max * ratio ** (-k / (K - 1)))`` samples, at least one, where ``n_max``
    is the largest head for which every class has enough samples; the shape is the same however unequal the
    classes were.

    Args:
        labels: (n,) codes in [0, n_classes).
        ratio: head over tail, at least 1; 1 gives equal classes.
        n_classes: K.
        order: classes from head to tail; by number where None.
        seed: fixes the draw.

    Source: Cui et al., "Class-balanced loss based on effective number of samples", CVPR 2019, section 5.1.

    Examples:
        >>> y = np.repeat(np.arange(3), 100)
        >>> np.bincount(y[long_tail_subsample(y, 100, 3, seed=1)]).tolist()
        [100, 10, 1]
    """
    check_number("ratio", ratio, low=1)
    check_number("n_classes", n_classes, low=2, integer=True)
    ranked = np.arange(n_classes) if order is None else np.asarray(order)
    if sorted(ranked.tolist()) != list(range(n_classes)):
        raise ValueError(f"order must name each of the {n_classes} classes once, got {ranked.tolist()}")
    labels = np.asarray(labels)
    have = np.bincount(labels, minlength=n_classes)
    if (have == 0).any():
        raise ValueError(f"class {int(np.flatnonzero(have == 0)[0])} has no sample")
    share = np.empty(n_classes)
    share[ranked] = float(ratio) ** (-np.arange(n_classes) / (n_classes - 1))
    head = math.floor(round(float((have / share).min()), 6))
    count = np.minimum(have, np.maximum(1, np.round(head * share).astype(np.int64)))
    return _first_of_class(labels, count, seed)


def covariate_environments(
    score: Float[np.ndarray, "n"], n_environments: int, strength: float, *, seed: int
) -> Int64[np.ndarray, "n"]:
    r"""Assign every sample to an environment by a score of its input alone, so that p(y | x) is shared.

    With ``r`` in [0, 1] the rank of the score and ``c_e`` the environments' equally spaced centres,
    ``P(e | x)`` is proportional to ``exp(-strength * |r - c_e|)``: a random split at 0, disjoint ranges of the
    score as the strength grows.

    Source: Shimodaira, "Improving predictive inference under covariate shift", J. Stat. Plan. Inference 2000.

    Examples:
        >>> covariate_environments(np.arange(4.0), 2, 1e6, seed=1).tolist()
        [0, 0, 1, 1]
    """
    check_number("n_environments", n_environments, low=2, integer=True)
    check_number("strength", strength, low=0)
    score = np.asarray(score, dtype=np.float64)
    rank = (np.argsort(np.argsort(score, kind="stable"), kind="stable") + 0.5) / max(1, len(score))
    centre = (np.arange(n_environments) + 0.5) / n_environments
    logit = -strength * np.abs(rank[:, None] - centre)
    weight = np.exp(logit - logit.max(axis=1, keepdims=True))
    cumulative = np.cumsum(weight / weight.sum(axis=1, keepdims=True), axis=1)
    u = np.random.default_rng(spawn_seed(seed, "covariate")).random((len(score), 1))
    return np.minimum((u > cumulative).sum(axis=1), n_environments - 1).astype(np.int64)


def _first_of_class(labels: np.ndarray, count: np.ndarray, seed: int) -> np.ndarray:
    """Return sorted rows: ``count[k]`` random rows of every class k."""
    order = np.lexsort((np.random.default_rng(spawn_seed(seed, "rows")).random(len(labels)), labels))
    have = np.bincount(labels, minlength=len(count))
    start = np.cumsum(have) - have
    place = np.arange(len(labels)) - start[labels[order]]
    return np.sort(order[place < count[labels[order]]])
