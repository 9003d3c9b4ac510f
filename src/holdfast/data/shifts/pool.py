"""What every shift of a pooled data set does: check the kind, divide the rows, name the environments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from holdfast.core.checks import check_number
from holdfast.core.random import spawn_seed
from holdfast.data.environments import Environments
from holdfast.data.errors import DataError
from holdfast.data.labels import Task
from holdfast.data.shifts.sampling import random_parts

__all__ = ["check_values", "divide", "environment_names", "gather", "pool"]


def pool(x: Any, y: Any, shift: str, *, kinds: Sequence[str] = (), task: Task | None = None) -> Environments:
    """Return the samples as one environment, or raise where the shift cannot act on them.

    Examples:
        >>> pool(np.zeros((4, 2)), [0, 1, 0, 1], "rotation", kinds=("vector",)).kind
        'vector'
        >>> pool(["a", "b"], [0, 1], "rotation", kinds=("image", "vector"))
        Traceback (most recent call last):
        ...
        holdfast.data.errors.DataError: the shift 'rotation' takes image or vector samples, not text
    """
    if "image" in kinds and getattr(x, "ndim", 0) == 3:
        x = x[:, None]  # No shift here moves trajectories, so (n, H, W) is grey images whatever the dtype.
    one = Environments.from_arrays(x, y)
    if kinds and one.kind not in kinds:
        raise DataError(f"the shift {shift!r} takes {' or '.join(kinds)} samples, not {one.kind}")
    if task is not None and one.task != task:
        raise DataError(f"the shift {shift!r} needs class labels, but y holds regression targets")
    return one


def check_values(name: str, values: Any, *, low: float | None = None, high: float | None = None) -> list[float]:
    """Return one number per environment, at least two of them.

    Examples:
        >>> check_values("strengths", (0.9, 0.1), low=0, high=1)
        [0.9, 0.1]
    """
    if isinstance(values, str) or not isinstance(values, (Sequence, np.ndarray)):
        raise TypeError(f"{name} must be a sequence with one number per environment, got {values!r}")
    if len(values) < 2:
        raise ValueError(f"{name} must name at least two environments, got {list(values)}")
    return [check_number(f"{name}[{i}]", v, low=low, high=high) for i, v in enumerate(values)]


def divide(one: Environments, parts: int, seed: int) -> np.ndarray:
    """Return an environment code per row: equal parts, in every class as well.

    Examples:
        >>> e = pool(np.zeros((4, 1)), [0, 0, 1, 1], "x")
        >>> codes = divide(e, 2, seed=1)
        >>> sorted(codes[:2].tolist()), sorted(codes[2:].tolist())
        ([0, 1], [0, 1])
    """
    if len(one) < parts:
        raise DataError(f"{len(one)} samples cannot fill {parts} environments")
    strata = one.labels if one.task == "classification" else None
    return random_parts(len(one), parts, seed=spawn_seed(seed, "environments"), strata=strata)


def environment_names(quantity: str, values: Sequence[Any]) -> tuple[str, ...]:
    """Return names such as ``rotation=30``, numbered where values repeat.

    Examples:
        >>> environment_names("rotation", [0, 30.0, 30])
        ('rotation=0', 'rotation=30', 'rotation=30 #2')
    """
    names: list[str] = []
    for v in values:
        name = f"{quantity}={v:g}" if isinstance(v, (int, float, np.number)) else f"{quantity}={v}"
        count = sum(n == name or n.startswith(f"{name} #") for n in names)
        names.append(f"{name} #{count + 1}" if count else name)
    return tuple(names)


def gather(
    one: Environments,
    codes: np.ndarray,
    names: Sequence[str],
    *,
    rows: np.ndarray | None = None,
    x: Any = None,
    y: np.ndarray | None = None,
    attributes: Mapping[str, np.ndarray] | None = None,
) -> Environments:
    """Return the shifted environments; the attribute ``row`` says which pooled row every sample was.

    Args:
        one: the pooled samples.
        codes: environment of every kept row.
        names: of the environments.
        rows: kept rows; all of them where None.
        x, y: shifted samples and labels of all rows; those of ``one`` where None.
        attributes: facts on all rows.

    Examples:
        >>> one = pool(np.zeros((3, 1)), [0, 1, 1], "x")
        >>> gather(one, np.array([0, 1]), ("a", "b"), rows=np.array([0, 2])).attributes["row"].tolist()
        [0, 2]
    """
    rows = np.arange(len(one)) if rows is None else rows
    given = {"row": np.arange(len(one)), **(attributes or {})}
    whole = Environments.from_arrays(one.x if x is None else x, one.y if y is None else y, None, given, kind=one.kind)
    part = whole if len(rows) == len(one) else whole.subset(rows)
    return Environments(x=part.x, y=part.y, environment=codes, names=tuple(names), attributes=part.attributes)
