"""Environments that differ in which samples they hold, or in how their labels were read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from holdfast.core.checks import check_choice, check_number
from holdfast.core.random import spawn_seed
from holdfast.data.environments import Environments
from holdfast.data.errors import DataError, suggest
from holdfast.data.shifts.label_noise import (
    instance_dependent_label_noise,
    next_class_noise,
    uniform_label_noise,
)
from holdfast.data.shifts.pool import check_values, divide, environment_names, gather, pool
from holdfast.data.shifts.sampling import (
    covariate_environments,
    label_prior_subsample,
    long_tail_subsample,
    tilted_priors,
)

__all__ = [
    "covariate_shift_environments",
    "input_score",
    "label_noise_environments",
    "label_prior_environments",
    "long_tail_environments",
]


def label_prior_environments(
    x: Any,
    y: Any,
    *,
    seed: int,
    n_environments: int = 3,
    tilt: float = 1.5,
    priors: Sequence[Sequence[float]] | None = None,
) -> Environments:
    """Divide the samples at random; keep of each part the largest sample with its class shares.

    Args:
        x: samples of any kind.
        y: labels.
        seed: fixes everything drawn.
        n_environments: number of environments; that of ``priors`` where given.
        tilt: how far the shares differ, see :func:`~holdfast.data.shifts.sampling.tilted_priors`; 0 makes all
            classes equal.
        priors: class shares, one row per environment, classes in sorted order.

    Examples:
        >>> y = [0, 1] * 20
        >>> e = label_prior_environments(np.zeros((40, 1)), y, seed=1, priors=[[0.5, 0.5], [0.1, 0.9]])
        >>> e.names, e.only("prior=1").describe().iloc[0].tolist()
        (('prior=0', 'prior=1'), [1, 10, 11])
    """
    one = pool(x, y, "label-prior", task="classification")
    n_classes = len(one.classes)
    if priors is None:
        check_number("n_environments", n_environments, low=2, integer=True)
        check_number("tilt", tilt, low=0)
        table = tilted_priors(n_environments, n_classes, tilt)
    else:
        table = np.asarray(priors, dtype=np.float64)
        if table.ndim != 2 or table.shape[1] != n_classes or len(table) < 2:
            raise ValueError(
                f"priors must have one row per environment (at least 2) and {n_classes} columns, got {table.shape}"
            )
    parts = divide(one, len(table), seed)
    rows = []
    for e, prior in enumerate(table):
        part = np.flatnonzero(parts == e)
        rows.append(part[label_prior_subsample(one.labels[part], prior, seed=spawn_seed(seed, "prior", e))])
    return _kept(one, rows, environment_names("prior", range(len(table))))


def long_tail_environments(
    x: Any,
    y: Any,
    *,
    seed: int,
    ratios: Sequence[float] = (1, 10, 50),
    order: Sequence[int] | None = None,
) -> Environments:
    """Divide the samples at random; thin each part out to an exponential tail of its ratio.

    Args:
        x: samples of any kind.
        y: labels.
        seed: fixes everything drawn.
        ratios: most frequent over rarest class, at least 1, one per environment.
        order: class codes from head to tail; in sorted order where None.

    Source: Cui et al., "Class-balanced loss based on effective number of samples", CVPR 2019, section 5.1.

    Examples:
        >>> y = [0, 1] * 20
        >>> long_tail_environments(np.zeros((40, 1)), y, seed=1, ratios=(1, 10)).describe().to_numpy().tolist()
        [[10, 10, 20], [10, 1, 11]]
    """
    one = pool(x, y, "long-tail", task="classification")
    values, k = check_values("ratios", ratios, low=1), len(one.classes)
    parts = divide(one, len(values), seed)
    rows = []
    for e, ratio in enumerate(values):
        part = np.flatnonzero(parts == e)
        keep = long_tail_subsample(one.labels[part], ratio, k, order=order, seed=spawn_seed(seed, "tail", e))
        rows.append(part[keep])
    return _kept(one, rows, environment_names("long-tail", ratios))


def covariate_shift_environments(
    x: Any,
    y: Any,
    *,
    seed: int,
    n_environments: int = 3,
    strength: float = 10.0,
    by: int | str = "principal",
) -> Environments:
    """Assign every sample to an environment by a score of its input; p(y | x) is the same in all.

    Args:
        x: vectors, images, or a table.
        y: labels.
        seed: fixes everything drawn.
        n_environments: number of environments, from low to high scores.
        strength: 0 is a random split; see :func:`~holdfast.data.shifts.sampling.covariate_environments`.
        by: the score, see :func:`input_score`.

    Examples:
        >>> e = covariate_shift_environments(np.arange(8.0)[:, None], [0, 1] * 4, seed=1, n_environments=2, by=0)
        >>> e.names
        ('covariate=0', 'covariate=1')
    """
    one = pool(x, y, "covariate", kinds=("vector", "image", "table"))
    score = input_score(one.x, by, seed=spawn_seed(seed, "score"))
    codes = covariate_environments(score, n_environments, strength, seed=spawn_seed(seed, "selection"))
    names = environment_names("covariate", range(n_environments))
    return gather(one, codes, names, attributes={"score": score})


def label_noise_environments(
    x: Any,
    y: Any,
    *,
    seed: int,
    rates: Sequence[float] = (0.2, 0.4, 0.0),
    noise: Literal["uniform", "next-class", "instance"] = "uniform",
) -> Environments:
    """Divide the samples at random; a share of each part's labels is wrong, and none where the rate is 0.

    Hold out the clean environment to measure on true labels. The attribute ``clean_label`` keeps them.

    Args:
        x: samples of any kind; vectors or images for ``"instance"``.
        y: labels.
        seed: fixes everything drawn.
        rates: share of wrong labels, one per environment.
        noise: ``"uniform"`` over the other classes, ``"next-class"``, or ``"instance"``-dependent.

    Examples:
        >>> e = label_noise_environments(np.zeros((4, 1)), [0, 1, 0, 1], seed=1, rates=(1.0, 0.0))
        >>> (e.y == e.attributes["clean_label"]).tolist() == (e.environment_names == "noise=0").tolist()
        True
    """
    check_choice("noise", noise, ["uniform", "next-class", "instance"])
    kinds = ("vector", "image") if noise == "instance" else ()
    one = pool(x, y, "label-noise", kinds=kinds, task="classification")
    values, k = check_values("rates", rates, low=0, high=1), len(one.classes)
    if k < 2:
        raise DataError(f"label noise needs at least two classes, got {one.classes.tolist()}")
    codes, labels = divide(one, len(values), seed), np.array(one.labels)
    for e, rate in enumerate(values):
        rows, child = np.flatnonzero(codes == e), spawn_seed(seed, "label noise", e)
        if noise == "uniform":
            labels[rows] = uniform_label_noise(labels[rows], rate, k, seed=child, include_true=False)
        elif noise == "next-class":
            labels[rows] = next_class_noise(labels[rows], rate, k, seed=child)
        else:
            labels[rows] = instance_dependent_label_noise(one.x[rows], labels[rows], rate, k, seed=child)
    names = environment_names("noise", rates)
    return gather(one, codes, names, y=one.classes[labels], attributes={"clean_label": one.y})


def input_score(x: Any, by: int | str = "principal", *, seed: int = 0) -> Float[np.ndarray, "n"]:
    """Return one number per sample: a feature, or a direction of the standardised features.

    Args:
        x: (n, ...) array, or a table; of a table's columns the numeric ones count, with medians for what is missing.
        by: the index of a feature, the name of a column (codes of a categorical one), ``"principal"`` for the
            direction of largest variance, or ``"projection"`` for a random one.
        seed: fixes the random direction, and the start of the search for the principal one.

    Raises:
        DataError: for an unknown column, an index out of range or a table without numeric columns.

    Examples:
        >>> input_score(np.array([[0.0, 5.0], [1.0, 4.0]]), 1).tolist()
        [5.0, 4.0]
    """
    if isinstance(x, pd.DataFrame):
        if isinstance(by, str) and by in x.columns:
            column = x[by]
            if not pd.api.types.is_numeric_dtype(column):
                return pd.factorize(column, sort=True)[0].astype(np.float64)
            return column.astype(np.float64).fillna(column.median()).to_numpy()
        if isinstance(by, str) and by not in ("principal", "projection"):
            raise DataError(f"by names no column: {by!r}{suggest(by, [*x.columns, 'principal', 'projection'])}")
        frame = x.select_dtypes("number").astype(np.float64)
        flat = frame.fillna(frame.median()).to_numpy()
    else:
        flat = np.asarray(x).reshape(len(x), -1)
    if not isinstance(by, str):
        check_number("by", by, low=0, high=flat.shape[1] - 1, integer=True)
        return flat[:, by].astype(np.float64)
    check_choice("by", by, ["principal", "projection"])
    if flat.shape[1] == 0:
        raise DataError("a score needs at least one numeric column; name a column by by=")
    z = flat.astype(np.float32)
    z -= z.mean(axis=0)
    deviation = z.std(axis=0)
    z /= np.where(deviation > 0, deviation, 1)
    direction = np.random.default_rng(spawn_seed(seed, "direction")).standard_normal(z.shape[1]).astype(np.float32)
    if by == "principal":
        # Power iteration: the covariance matrix of large images would not fit.
        for _ in range(50):
            direction = z.T @ (z @ direction)
            direction /= max(float(np.linalg.norm(direction)), 1e-12)
        direction *= np.sign(direction[np.abs(direction).argmax()]) or 1
    return (z @ direction).astype(np.float64)


def _kept(one: Environments, rows: list[np.ndarray], names: tuple[str, ...]) -> Environments:
    codes = np.repeat(np.arange(len(rows)), [len(r) for r in rows])
    flat = np.concatenate(rows)
    order = np.argsort(flat, kind="stable")
    return gather(one, codes[order], names, rows=flat[order])
