"""Columns of a table as features, labels and environments, and what is refused of each."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from holdfast.data.environments import Environments
from holdfast.data.errors import DataError, DataWarning
from holdfast.data.labels import Task, encode_environment

__all__ = ["attribute_values", "environment_codes", "features", "label_values", "warn_absent"]

_NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*")
Source = str | Path


def at(source: Source, column: str, row: int | None = None) -> str:
    """Return where something is: the file, the column, the row (from 0) and its line in a text file."""
    if row is None:
        return f"{source}, column {column!r}"
    line = f" (line {row + 2})" if ".csv" in str(source).lower() or ".tsv" in str(source).lower() else ""
    return f"{source}, column {column!r}, row {row}{line}"


def first_null(column: pa.ChunkedArray) -> tuple[int, int]:
    """Return the row of the first missing value and their number; NaN counts as missing."""
    missing = column.is_null(nan_is_null=True).to_numpy()
    count = int(missing.sum())
    return (int(missing.argmax()) if count else -1), count


def is_text(t: pa.DataType) -> bool:
    return pa.types.is_string(t) or pa.types.is_large_string(t) or pa.types.is_string_view(t)


def is_number(t: pa.DataType) -> bool:
    return pa.types.is_integer(t) or pa.types.is_floating(t) or pa.types.is_boolean(t) or pa.types.is_decimal(t)


def decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def features(table: pa.Table, source: Source, *, text: tuple[str, ...] = ()) -> pd.DataFrame:
    """Return the features: numbers (and booleans) as float64, dates as datetime64, all else as text.

    A column without any value is left out, with a warning.

    Raises:
        DataError: for a column of numbers in which some cells are none, or of nested values.
    """
    out: dict[str, pa.ChunkedArray] = {}
    for name in table.column_names:
        column = decoded(table[name])
        if column.null_count == len(column) and name not in text:
            warnings.warn(f"{at(source, name)} has no value; it is left out", DataWarning, stacklevel=4)
            continue
        out[name] = feature(column, at(source, name), name in text)
        if is_text(out[name].type) and name not in text:
            check_not_mixed(out[name], source, name)
    if not out:
        raise DataError(f"{source} has no feature columns left besides label, environment and attributes")
    return pa.table(out).to_pandas(split_blocks=True, self_destruct=True)


def feature(column: pa.ChunkedArray, where: str, as_text: bool = False) -> pa.ChunkedArray:
    """Return a column in its one feature type."""
    t = column.type
    if pa.types.is_binary(t) or pa.types.is_large_binary(t):
        raise DataError(f"{where} is not text in this encoding; pass encoding='latin-1' (or the file's own)")
    if pa.types.is_nested(t):
        raise DataError(f"{where} holds nested values ({t}); give one value a cell, or leave it out with drop=")
    if as_text or pa.types.is_time(t):
        return column.cast(pa.string())
    if is_number(t):
        return column.cast(pa.float64(), safe=False)
    if pa.types.is_null(t):
        return column.cast(pa.float64())
    if pa.types.is_date(t) or pa.types.is_timestamp(t):
        return column.cast(pa.timestamp("us"), safe=False)
    if pa.types.is_duration(t):
        seconds = column.cast(pa.duration("us"), safe=False).to_numpy() / np.timedelta64(1, "s")
        return pa.chunked_array([pa.array(seconds, pa.float64(), from_pandas=True)])
    return column if is_text(t) else column.cast(pa.string())


def check_not_mixed(column: pa.ChunkedArray, source: Source, name: str) -> None:
    """Raise when nearly all cells of a text column are numbers: the others are slips or marks for missing values."""
    head = column.slice(0, 2000).drop_null().to_pylist()
    if sum(bool(_NUMBER.fullmatch(v)) for v in head) < 0.5 * len(head) or not head:
        return
    values = column.drop_null().value_counts()
    words = values.field("values").to_pylist()
    counts = values.field("counts").to_numpy(zero_copy_only=False)
    number = np.array([bool(_NUMBER.fullmatch(w)) for w in words])
    distinct, cells = int(number.sum()), int(counts[number].sum())
    mostly = cells >= 0.8 * counts.sum()
    if number.all() or not mostly or not (distinct >= 10 or (distinct >= 4 and distinct >= 0.5 * cells)):
        return
    word = words[int(np.flatnonzero(~number)[np.argmax(counts[~number])])]
    row = column.index(word).as_py()
    raise DataError(
        f"{at(source, name, row)}: {word!r} in a column of numbers ({cells} of {int(counts.sum())} are); correct "
        f"it, count it as missing with missing=[{word!r}], or read the column as categories with "
        f"categorical=[{name!r}]"
    )


def label_values(column: pa.ChunkedArray, source: Source, name: str, task: Task | None) -> np.ndarray:
    """Return labels as an array of classes or of float targets.

    Raises:
        DataError: for a missing label (with the row), one label only, or numbers of which it is unclear
            whether they are classes or targets.
    """
    column = decoded(column)
    row, count = first_null(column)
    if count:
        raise DataError(
            f"{at(source, name, row)}: the label is missing ({count} of {len(column)} are); fill it in or drop the row"
        )
    if not (is_text(column.type) or is_number(column.type)):
        column = feature(column, at(source, name), as_text=True)
    n, distinct = len(column), len(column.unique())
    if distinct == 1 and n > 1:
        raise DataError(
            f"{at(source, name)}: the label is {column[0].as_py()!r} in all {n} rows, so there is nothing to "
            "learn; is it the right column?"
        )
    if is_text(column.type):
        if task == "regression":
            check_not_mixed(column, source, name)
            raise DataError(f"{at(source, name)}: regression needs numbers, but row 0 is {column[0].as_py()!r}")
        check_not_mixed(column, source, name)
        if n >= 20 and distinct > 0.5 * n:
            raise DataError(
                f"{at(source, name)}: {distinct} different texts in {n} rows can hardly be classes; is it the "
                "right column?"
            )
        encoded = column.combine_chunks().dictionary_encode()
        encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
        words = np.asarray(encoded.dictionary.to_pylist())
        return words[encoded.indices.to_numpy(zero_copy_only=False)]
    if pa.types.is_boolean(column.type):
        return column.to_numpy().astype(np.int64)
    values = (column.cast(pa.float64()) if pa.types.is_decimal(column.type) else column).to_numpy()
    whole = values.dtype.kind in "iu" or bool((values == np.rint(values)).all())
    if task == "regression" or (task is None and not whole):
        return values.astype(np.float64)
    if not whole:
        row = int(np.flatnonzero(values != np.rint(values))[0])
        raise DataError(
            f"{at(source, name, row)}: {values[row]:g} is no class; classes must be whole numbers or texts, "
            "task='regression' reads the column as targets"
        )
    many = (distinct >= 20 and distinct > 0.05 * n) or (n >= 6 and distinct > 0.5 * n)
    if task is None and many:
        raise DataError(
            f"{at(source, name)}: {distinct} different numbers in {n} rows are probably regression targets; bin them "
            "into classes, or say which they are with task='regression' or task='classification'"
        )
    return values.astype(np.int64)


def environment_codes(column: pa.ChunkedArray, source: Source, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return environment codes and names.

    Raises:
        DataError: for a missing environment (with the row) or one environment only.
    """
    column = decoded(column)
    row, count = first_null(column)
    if count:
        raise DataError(
            f"{at(source, name, row)}: the environment is missing ({count} of {len(column)} are); fill it in, drop "
            "the row, or pass missing=[] if the text is a name"
        )
    if not (is_text(column.type) or is_number(column.type)):
        column = column.cast(pa.string())
    encoded = column.combine_chunks().dictionary_encode()
    encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    values = encoded.dictionary.to_pylist()
    if len(values) == 1:
        raise DataError(
            f"{at(source, name)}: one environment only, {values[0]!r} in all {len(column)} rows; at least two are "
            "needed to see a shift: name another column (from Python, environment=None reads one environment)"
        )
    if len(values) > 0.5 * len(column) and len(column) >= 20:
        raise DataError(
            f"{at(source, name)}: {len(values)} environments in {len(column)} rows; an environment needs many "
            "rows, is it the right column?"
        )
    codes, names = encode_environment(values)
    return codes[encoded.indices.to_numpy(zero_copy_only=False)], names


def attribute_values(column: pa.ChunkedArray) -> np.ndarray:
    """Return an attribute: numbers as they are (NaN for missing), texts with ``None`` for missing."""
    column = decoded(column)
    if is_number(column.type) and not pa.types.is_decimal(column.type):
        return column.to_numpy()
    if not is_text(column.type):
        column = column.cast(pa.string())
    values = np.array(column.to_pylist(), dtype=object)
    return values if column.null_count else values.astype(str)


def warn_absent(data: Environments, source: Source) -> Environments:
    """Warn when a class does not occur in some environment, and return the data."""
    if data.task == "classification" and len(data.names) > 1:
        counts = data.describe().drop(columns="samples")
        absent = np.argwhere(counts.to_numpy() == 0)
        if len(absent):
            shown = [f"{counts.columns[c]!r} from {data.names[e]!r}" for e, c in absent[:5]]
            more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
            warnings.warn(
                f"{source}: classes are absent from environments: {', '.join(shown)}{more}; scores there are over "
                "the classes that occur",
                DataWarning,
                stacklevel=3,
            )
    return data
