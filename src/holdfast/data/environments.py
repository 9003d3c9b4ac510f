"""Samples with labels and the environment each came from: the one form in which data travels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Int64, Shaped

from holdfast.core.checks import check_number
from holdfast.core.random import spawn_seed
from holdfast.data.errors import DataError, suggest
from holdfast.data.labels import Task, as_labels, encode_environment, plain_array, stratified_rows
from holdfast.data.samples import Kind, as_index, as_samples, concat_samples, freeze, kind_of, take

if TYPE_CHECKING:
    from rich.table import Table

    from holdfast.data.loader import EnvironmentLoader

__all__ = ["Environments"]


@dataclass(frozen=True, eq=False, repr=False)
class Environments:
    """Samples ``x``, labels ``y`` and, for every sample, the environment it came from; immutable.

    Build one with :meth:`from_arrays` or a reader. Arrays are held as read-only views of what was given, and
    a run of rows is taken as a view, so neither building nor narrowing copies the samples.

    Attributes:
        x: (n, d), (n, T, d) or (n, C, H, W) array, DataFrame of n rows, or list of n texts, graphs or (m, d) sets.
        y: (n,) labels: integers, booleans or strings are classes; floats are regression targets.
        environment: (n,) int64 codes into ``names``.
        names: name of every environment.
        attributes: further (n,) facts on the samples (protected or spurious), never given to a model.

    Examples:
        >>> e = Environments.from_arrays([[0.0], [1.0], [2.0]], ["no", "yes", "no"], ["A", "B", "B"])
        >>> e.names, e.only("B").y.tolist()
        (('A', 'B'), ['yes', 'no'])
        >>> e
        Environments(vector (1,), n=3, 2 environments: A 1, B 2; 2 classes)
    """

    x: Any
    y: Shaped[np.ndarray, "n"]
    environment: Int64[np.ndarray, "n"]
    names: tuple[str, ...]
    attributes: Mapping[str, Shaped[np.ndarray, "n"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        x, y = self.x, np.asarray(self.y)
        if isinstance(x, np.ndarray):
            x = freeze(x)
        elif isinstance(x, pd.DataFrame) and not isinstance(x.index, pd.RangeIndex):
            x = x.set_axis(pd.RangeIndex(len(x)), axis=0)
        codes, names = np.asarray(self.environment), tuple(self.names)
        n = len(x)
        attributes = {str(k): freeze(np.asarray(v)) for k, v in self.attributes.items()}
        columns = {"y": y, "environment": codes} | {f"attribute {k!r}": v for k, v in attributes.items()}
        for name, v in columns.items():
            if v.shape != (n,):
                raise DataError(f"{name} must have one entry for each of the {n} samples, got shape {v.shape}")
        if n == 0:
            raise DataError("there are no samples: the data, or the part that was asked for, is empty")
        if codes.dtype.kind not in "iu" or codes.min() < 0 or codes.max() >= len(names):
            raise DataError(
                f"environment must hold integer codes into the {len(names)} names; "
                "Environments.from_arrays accepts any labels"
            )
        if len(set(names)) != len(names):
            raise DataError(f"environment names must differ, got {names}")
        kind_of(x)
        object.__setattr__(self, "x", x)
        object.__setattr__(self, "y", freeze(y))
        object.__setattr__(self, "environment", freeze(codes.astype(np.int64, copy=False)))
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "attributes", MappingProxyType(attributes))

    @classmethod
    def from_arrays(
        cls,
        x: Any,
        y: Any,
        environment: Any = None,
        attributes: Mapping[str, Any] | None = None,
        *,
        names: tuple[str, ...] | None = None,
        kind: Kind | None = None,
        task: Task | None = None,
    ) -> Environments:
        """Build from samples, labels and environment labels of any type.

        Args:
            x: samples, see :func:`holdfast.data.samples.as_samples`.
            y: (n,) labels.
            environment: (n,) names, numbers or (with ``names``) codes; ``None`` puts all samples in one, ``"all"``.
            attributes: further (n,) facts on the samples.
            names: fixes the order (and the set) of environments that ``environment`` indexes or names.
            kind: says what ``x`` is where its shape does not.
            task: ``"classification"`` reads whole-number floats as classes, ``"regression"`` reads numbers as
                targets; by default floats are targets and all else classes.

        Raises:
            DataError: for lengths that differ, missing labels or environments (with the row), or unusable ``x``.

        Examples:
            >>> e = Environments.from_arrays(np.zeros((4, 2)), [0.5, 1.0, 2.0, 0.1], [2011, 2011, 2012, 2012])
            >>> e.task, e.names
            ('regression', ('2011', '2012'))
        """
        samples = as_samples(x, kind)
        n = len(samples)
        if environment is None:
            codes, names = np.zeros(n, np.int64), names or ("all",)
        else:
            codes, names = encode_environment(environment, names)
        return cls(
            x=samples,
            y=as_labels(y, task),
            environment=codes,
            names=names,
            attributes={k: plain_array(v) for k, v in (attributes or {}).items()},
        )

    # What it is

    def __len__(self) -> int:
        return len(self.environment)

    @property
    def kind(self) -> Kind:
        """Modality of ``x``: vector, image, table, text, sets, graphs or trajectories."""
        return kind_of(self.x)

    @property
    def task(self) -> Task:
        """``"regression"`` when ``y`` holds floats, else ``"classification"``."""
        return "regression" if self.y.dtype.kind == "f" else "classification"

    @cached_property
    def classes(self) -> np.ndarray:
        """Sorted distinct labels.

        Raises:
            DataError: for regression targets.
        """
        if self.task == "regression":
            raise DataError("regression targets have no classes; task='classification' reads whole numbers as such")
        return freeze(np.unique(self.y))

    @cached_property
    def labels(self) -> Int64[np.ndarray, "n"]:
        """Class codes: positions of ``y`` in :attr:`classes`."""
        return freeze(np.searchsorted(self.classes, self.y).astype(np.int64, copy=False))

    @property
    def environment_names(self) -> np.ndarray:
        """Name of the environment of every sample."""
        return np.asarray(self.names)[self.environment]

    @property
    def counts(self) -> dict[str, int]:
        """Samples in every environment."""
        n = np.bincount(self.environment, minlength=len(self.names))
        return dict(zip(self.names, n.tolist()))

    def describe(self) -> pd.DataFrame:
        """Return counts of environment × class, or the spread of the targets in every environment.

        Examples:
            >>> e = Environments.from_arrays(np.zeros((3, 1)), [0, 1, 1], ["A", "B", "B"])
            >>> e.describe().loc["B"].tolist()
            [0, 2, 2]
        """
        index = pd.Index(self.names, name="environment")
        if self.task == "regression":
            parts = [self.y[self.environment == i] for i in range(len(self.names))]
            spread = [[v.mean(), v.std(ddof=1) if len(v) > 1 else np.nan, v.min(), v.max()] for v in parts if len(v)]
            kept = index[[bool(len(v)) for v in parts]]
            table = pd.DataFrame(spread, index=kept, columns=["mean", "std", "min", "max"]).reindex(index)
            table.insert(0, "samples", [len(v) for v in parts])
            return table
        k = len(self.classes)
        flat = np.bincount(self.environment * k + self.labels, minlength=k * len(self.names))
        table = pd.DataFrame(flat.reshape(-1, k), index=index, columns=[str(c) for c in self.classes])
        return table.assign(samples=table.sum(axis=1))

    def __repr__(self) -> str:
        shown = ", ".join(f"{k} {v}" for k, v in list(self.counts.items())[:6])
        more = ", …" if len(self.names) > 6 else ""
        plural = "" if len(self.names) == 1 else "s"
        what = "regression" if self.task == "regression" else f"{len(self.classes)} classes"
        extra = f"; attributes {', '.join(self.attributes)}" if self.attributes else ""
        return (
            f"Environments({self.kind}{_width(self.x)}, n={len(self)}, {len(self.names)} environment{plural}: "
            f"{shown}{more}; {what}{extra})"
        )

    def __rich__(self) -> Table:
        from holdfast.data.show import environments_table

        return environments_table(self)

    # Narrower and wider

    def subset(self, index: Any) -> Environments:
        """Return the samples at ``index`` (slice, row numbers or mask); a run of rows shares memory.

        Examples:
            >>> e = Environments.from_arrays(np.zeros((4, 1)), [0, 1, 0, 1], list("AABB"))
            >>> np.shares_memory(e.subset(slice(1, 3)).x, e.x)
            True
        """
        rows = as_index(index, len(self))
        return Environments(
            x=take(self.x, rows),
            y=self.y[rows],
            environment=self.environment[rows],
            names=self.names,
            attributes={k: v[rows] for k, v in self.attributes.items()},
        )

    def only(self, *names: str) -> Environments:
        """Return the samples of the named environments; codes count them in the order of :attr:`names`.

        Raises:
            DataError: for an unknown name, with the closest known one.

        Examples:
            >>> e = Environments.from_arrays(np.zeros((4, 1)), [0, 1, 0, 1], list("ABCC"))
            >>> e.only("C").names, len(e.without("C"))
            (('C',), 2)
        """
        if not names:
            raise DataError("name at least one environment to keep")
        wanted = {str(n) for n in names}
        for name in wanted - set(self.names):
            raise DataError(f"there is no environment {name!r}{suggest(name, self.names)}")
        kept = [i for i, n in enumerate(self.names) if n in wanted]
        if len(kept) == len(self.names):
            return self
        recode = np.full(len(self.names), -1, np.int64)
        recode[kept] = np.arange(len(kept))
        part = self.subset(recode[self.environment] >= 0)
        return replace(part, environment=recode[part.environment], names=tuple(self.names[i] for i in kept))

    def without(self, *names: str) -> Environments:
        """Return the samples of all environments but the named ones; see :meth:`only`."""
        for name in {str(n) for n in names} - set(self.names):
            raise DataError(f"there is no environment {name!r}{suggest(name, self.names)}")
        return self.only(*(n for n in self.names if n not in {str(m) for m in names}))

    def split(self, fraction: float, seed: int = 0, stratify: bool = True) -> tuple[Environments, Environments]:
        """Return ``(rest, part)`` where ``part`` holds ``fraction`` of the samples, drawn at random.

        Stratified, every environment × class (every environment, for regression) gives its share to within
        one sample; the total is ``round(fraction * n)`` either way. Both parts keep the order of the rows.

        Raises:
            DataError: when either part would be empty.

        Examples:
            >>> e = Environments.from_arrays(np.zeros((20, 1)), [0, 1] * 10, ["A"] * 10 + ["B"] * 10)
            >>> rest, part = e.split(0.2, seed=0)
            >>> part.describe().to_numpy().tolist()
            [[1, 1, 2], [1, 1, 2]]
        """
        check_number("fraction", fraction, low=0, high=1, open_low=True, open_high=True)
        n, size = len(self), round(fraction * len(self))
        if size in (0, n):
            raise DataError(f"a fraction {fraction} of {n} samples leaves one of the two parts empty")
        rng = np.random.default_rng(spawn_seed(seed, "split"))
        stratum = np.zeros(n, np.int64)
        if stratify:
            stratum = self.environment
            if self.task == "classification":
                stratum = stratum * len(self.classes) + self.labels
        mask = np.zeros(n, bool)
        mask[stratified_rows(stratum, size, rng)] = True
        return self.subset(~mask), self.subset(mask)

    def pooled(self) -> tuple[Any, np.ndarray, np.ndarray]:
        """Return ``(x, y, environment name of every sample)``, the arguments of an estimator's ``fit``."""
        return self.x, self.y, self.environment_names

    def map(self, function: Callable[[Any], Any], *, kind: Kind | None = None) -> Environments:
        """Return the same samples with ``x`` replaced by ``function(x)``, which must keep their number.

        Examples:
            >>> e = Environments.from_arrays(np.ones((2, 1)), [0, 1])
            >>> e.map(lambda x: 2 * x).x.tolist()
            [[2.0], [2.0]]
        """
        return replace(self, x=as_samples(function(self.x), kind))

    def regroup(self, attribute: str, *, keep: str | None = None) -> Environments:
        """Return the same samples with an attribute as their environment.

        Args:
            attribute: name of the attribute to use.
            keep: keep the present environment as an attribute of this name.

        Examples:
            >>> e = Environments.from_arrays(np.ones((2, 1)), [0, 1], ["A", "B"], {"sex": ["f", "m"]})
            >>> e.regroup("sex").names
            ('f', 'm')
        """
        if attribute not in self.attributes:
            raise DataError(f"there is no attribute {attribute!r}{suggest(attribute, self.attributes)}")
        codes, names = encode_environment(self.attributes[attribute], None)
        attributes = {k: v for k, v in self.attributes.items() if k != attribute}
        if keep is not None:
            attributes[keep] = self.environment_names
        return replace(self, environment=codes, names=names, attributes=attributes)

    @classmethod
    def concat(cls, *parts: Environments) -> Environments:
        """Return the samples of all parts; environments of one name are one, attributes are those all have.

        Examples:
            >>> a = Environments.from_arrays(np.zeros((1, 1)), [0], ["A"])
            >>> b = Environments.from_arrays(np.ones((1, 1)), [1], ["B"])
            >>> Environments.concat(a, b).names
            ('A', 'B')
        """
        if not parts:
            raise DataError("name at least one part to join")
        if len({p.task for p in parts}) > 1:
            raise DataError("parts with classes cannot be joined to parts with regression targets")
        names = tuple(dict.fromkeys(n for p in parts for n in p.names))
        place = {n: i for i, n in enumerate(names)}
        shared = [k for k in parts[0].attributes if all(k in p.attributes for p in parts)]
        return cls(
            x=concat_samples([p.x for p in parts]),
            y=np.concatenate([p.y for p in parts]),
            environment=np.concatenate([np.array([place[n] for n in p.names])[p.environment] for p in parts]),
            names=names,
            attributes={k: np.concatenate([p.attributes[k] for p in parts]) for k in shared},
        )

    def loader(
        self,
        batch_size: int,
        balanced: bool = True,
        seed: int = 0,
        *,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> EnvironmentLoader:
        """Return batches for a training loop; balanced, each holds as many samples of every environment.

        Args:
            batch_size: samples in a batch.
            balanced: equal shares of the environments (small ones are drawn again) instead of all rows once.
            seed: epoch ``e`` is a pure function of ``(seed, e)``.
            drop_last: leave out a last, smaller batch.
            rank, world_size: which share of every batch this process takes.

        Examples:
            >>> e = Environments.from_arrays(np.zeros((8, 1)), [0, 1] * 4, list("AABBBBBB"))
            >>> [b.environment.tolist().count(0) for b in e.loader(4)]
            [2, 2]
        """
        from holdfast.data.loader import EnvironmentLoader

        return EnvironmentLoader(
            self,
            batch_size,
            balanced=balanced,
            seed=seed,
            drop_last=drop_last,
            rank=rank,
            world_size=world_size,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return Environments, (self.x, self.y, self.environment, self.names, dict(self.attributes))


def _width(x: Any) -> str:
    if isinstance(x, np.ndarray):
        return f" {x.shape[1:]}"
    if isinstance(x, pd.DataFrame):
        numeric = sum(pd.api.types.is_numeric_dtype(d) for d in x.dtypes)
        return f" ({numeric} numeric + {x.shape[1] - numeric} categorical)"
    return ""
