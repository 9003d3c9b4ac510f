"""Tables with a label and an environment column."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from holdfast.data.environments import Environments
from holdfast.data.errors import DataError, DataWarning
from holdfast.data.labels import Task
from holdfast.data.readers.columns import (
    at,
    attribute_values,
    environment_codes,
    features,
    label_values,
    warn_absent,
)
from holdfast.data.readers.frames import (
    MISSING,
    check_columns,
    column_names,
    needed_columns,
    read_arrow,
)

__all__ = ["read_frame", "read_table"]


def read_table(
    path: str | Path,
    *,
    label: str,
    environment: str | None = None,
    attributes: Sequence[str] = (),
    columns: Sequence[str] | None = None,
    drop: Sequence[str] = (),
    categorical: Sequence[str] = (),
    task: Task | None = None,
    missing: Iterable[str] = (),
    encoding: str = "utf-8",
) -> Environments:
    """Read a CSV, TSV, Parquet, JSON or JSON-lines table; text formats may be compressed.

    Args:
        path: the file.
        label: column of the labels. Texts and whole numbers are classes, other numbers regression targets.
        environment: column of the environments; ``None`` reads all rows as one.
        attributes: columns of protected or spurious facts; not features unless ``columns`` names them too.
        columns: the features; by default all columns but label, environment, attributes and ``drop``.
        drop: columns to leave out.
        categorical: columns whose numbers are codes, not quantities.
        task: ``"classification"`` or ``"regression"`` where the label leaves it open.
        missing: further texts that stand for a missing value, besides empty, NA, NaN, null and their like.
        encoding: of a text file.

    Raises:
        DataError: with the row, the column and the fix, for whatever cannot be read without guessing.

    Examples:
        >>> import tempfile, pathlib
        >>> p = pathlib.Path(tempfile.mkdtemp()) / "visits.csv"
        >>> _ = p.write_text("age,drug,site,ill\\n30,a,N,no\\n,b,N,yes\\n50,a,S,no\\n61,c,S,yes\\n")
        >>> read_table(p, label="ill", environment="site")
        Environments(table (1 numeric + 1 categorical), n=4, 2 environments: N 2, S 2; 2 classes)
    """
    names = column_names(path, encoding)
    wanted = _choose(names, path, label, environment, attributes, columns, drop, categorical)
    table = read_arrow(
        path,
        needed_columns([*wanted, *attributes], label, environment),
        text=categorical,
        missing=[*MISSING, *missing],
        encoding=encoding,
    )
    return _assemble(table, Path(path).name, label, environment, attributes, wanted, categorical, task)


def read_frame(
    frame: pd.DataFrame,
    *,
    label: str,
    environment: str | None = None,
    attributes: Sequence[str] = (),
    columns: Sequence[str] | None = None,
    drop: Sequence[str] = (),
    categorical: Sequence[str] = (),
    task: Task | None = None,
) -> Environments:
    """Read a pandas table with the rules and checks of :func:`read_table`.

    Examples:
        >>> frame = pd.DataFrame({"age": [30, 40, 50, 60], "site": list("NNSS"), "ill": [0, 1, 0, 1]})
        >>> read_frame(frame, label="ill", environment="site").kind
        'table'
    """
    duplicated = frame.columns[frame.columns.duplicated()]
    if len(duplicated):
        raise DataError(f"column {duplicated[0]!r} appears more than once; rename one of the two")
    names = [str(c) for c in frame.columns]
    wanted = _choose(names, "the frame", label, environment, attributes, columns, drop, categorical)
    arrays = {}
    for name in needed_columns([*wanted, *attributes], label, environment):
        column = frame.iloc[:, names.index(name)]
        if name in categorical:
            column = column.astype(object).map(lambda v: None if pd.isna(v) else str(v))
        try:
            array = pa.array(column, from_pandas=True)
        except (pa.ArrowException, TypeError) as e:
            types = column.dropna().map(lambda v: type(v).__name__)
            odd = types.index[types != types.iloc[0]]
            row = int(column.index.get_indexer(odd[:1])[0]) if len(odd) else 0
            raise DataError(
                f"{at('the frame', name, row)}: {column.iloc[row]!r} ({type(column.iloc[row]).__name__}) in a column "
                f"of {types.iloc[0]}; make it one type, or read it as categories with categorical=[{name!r}]"
            ) from e
        arrays[name] = pa.chunked_array([array]) if isinstance(array, pa.Array) else array
    if len(frame) == 0:
        raise DataError("the frame has no rows")
    return _assemble(pa.table(arrays), "the frame", label, environment, attributes, wanted, categorical, task)


def _choose(
    names: Sequence[str],
    source: str | Path,
    label: str,
    environment: str | None,
    attributes: Sequence[str],
    columns: Sequence[str] | None,
    drop: Sequence[str],
    categorical: Sequence[str],
) -> list[str]:
    """Return the feature columns."""
    source = source if isinstance(source, str) else source.name
    roles = {"attributes": attributes, "columns": columns, "drop": drop, "categorical": categorical}
    for role, given in roles.items():
        if isinstance(given, str):
            raise DataError(f"{role} must be a list of column names, got the text {given!r}; write [{given!r}]")
    check_columns(source, names, label=label, environment=environment, **roles)
    for name, role in ((label, "label"), (environment, "environment")):
        if name is not None and columns is not None and name in columns:
            raise DataError(f"column {name!r} is the {role} and cannot be a feature as well; leave it out of columns")
    if label in attributes:
        raise DataError(f"column {label!r} is the label and cannot be an attribute as well")
    if columns is not None:
        return [c for c in columns if c not in drop]
    if "" in names:
        warnings.warn(
            f"{source}: column {names.index('')} has no name (a saved row index?); it is left out",
            DataWarning,
            stacklevel=4,
        )
    taken = {label, environment, *attributes, *drop, ""}
    return [n for n in names if n not in taken]


def _assemble(
    table: pa.Table,
    source: str,
    label: str,
    environment: str | None,
    attributes: Sequence[str],
    wanted: Sequence[str],
    categorical: Sequence[str],
    task: Task | None,
) -> Environments:
    y = label_values(table[label], source, label, task)
    codes, names = (None, None) if environment is None else environment_codes(table[environment], source, environment)
    kept = {a: attribute_values(table[a]) for a in attributes}
    x = features(table.select(list(wanted)), source, text=tuple(categorical))
    _warn_suspicious(x, y, source, label)
    return warn_absent(Environments.from_arrays(x, y, codes, kept, names=names), source)


def _warn_suspicious(x: pd.DataFrame, y: np.ndarray, source: str, label: str) -> None:
    n = len(x)
    for name in x.columns:
        column = x[name]
        text = not (pd.api.types.is_numeric_dtype(column) or pd.api.types.is_datetime64_any_dtype(column))
        head = column.iloc[:1000].to_numpy()
        copied = text == (y.dtype.kind == "U") and len(head) == len(y[:1000]) and bool((head == y[:1000]).all())
        if copied and bool((column.to_numpy() == y).all()):
            warnings.warn(
                f"{at(source, name)} equals the label {label!r} in every row; leave it out with drop=[{name!r}]",
                DataWarning,
                stacklevel=4,
            )
        if text and n >= 20 and not column.iloc[:1000].duplicated().any() and not column.duplicated().any():
            warnings.warn(
                f"{at(source, name)} has another text in every row (an identifier?); leave it out with "
                f"drop=[{name!r}], or read texts with read_text",
                DataWarning,
                stacklevel=4,
            )
