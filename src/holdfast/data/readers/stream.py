"""Tables in chunks, for files larger than memory: the types of the whole, a chunk at a time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from holdfast.core.checks import check_choice, check_number
from holdfast.data.errors import DataError
from holdfast.data.readers.columns import at, feature, is_number, is_text
from holdfast.data.readers.frames import (
    MISSING,
    check_columns,
    check_file,
    column_names,
    csv_header,
    csv_options,
    file_type,
)

__all__ = ["ColumnType", "column_types", "iter_table"]

ColumnType = Literal["number", "text", "time"]


def column_types(path: str | Path, *, missing: Iterable[str] = (), encoding: str = "utf-8") -> dict[str, ColumnType]:
    """Return the type that a whole read gives each column, in one pass that holds a chunk at a time.

    A column is ``"number"`` when every cell is, ``"time"`` when every cell is a date, else ``"text"``.

    Examples:
        >>> import tempfile, pathlib
        >>> p = pathlib.Path(tempfile.mkdtemp()) / "a.csv"
        >>> _ = p.write_text("n,day,c\\n1,2020-01-01,a\\n,2020-01-02,7\\n")
        >>> column_types(p)
        {'n': 'number', 'day': 'time', 'c': 'text'}
    """
    if file_type(path) == "parquet":
        fields = {f.name: f.type for f in pq.ParquetFile(check_file(path)).schema_arrow}
        return {n: _type_of(t) for n, t in fields.items()}
    names = [n for n in column_names(path, encoding) if n]
    found: dict[str, int | None] = dict.fromkeys(names)
    for chunk in _csv_chunks(Path(path), dict.fromkeys(names, pa.string()), [*MISSING, *missing], encoding):
        for name in [n for n in names if found[n] != _TEXT]:
            column = chunk[name].drop_null()
            if len(column):
                seen = _parse_of(column)
                found[name] = seen if found[name] in (None, seen) else _TEXT
    return {n: _PARSES[i or 0][0] for n, i in found.items()}


_PARSES: tuple[tuple[ColumnType, pa.DataType], ...] = (
    ("number", pa.float64()),
    ("number", pa.bool_()),
    ("time", pa.timestamp("us")),
    ("time", pa.timestamp("us", "UTC")),
    ("text", pa.string()),
)
_TEXT = len(_PARSES) - 1
# Arrow reads some dozens of blocks ahead, so that memory is a multiple of this.
_BLOCK = 1 << 20


def _parse_of(cells: pa.Array) -> int:
    """Return which of the parses fits every cell."""
    return next(i for i, (_, t) in enumerate(_PARSES) if _castable(cells, t))


def _castable(column: pa.Array, t: pa.DataType) -> bool:
    if pa.types.is_boolean(t):
        return set(column.unique().slice(0, 7).to_pylist()) <= {"true", "True", "TRUE", "false", "False", "FALSE"}
    try:
        (column if pa.types.is_string(t) else pc.call_function("utf8_trim_whitespace", [column])).cast(t)
    except pa.ArrowInvalid:
        return False
    return True


def _type_of(t: pa.DataType) -> ColumnType:
    t = t.value_type if pa.types.is_dictionary(t) else t
    if pa.types.is_date(t) or pa.types.is_timestamp(t):
        return "time"
    return "number" if is_number(t) or pa.types.is_null(t) or pa.types.is_duration(t) else "text"


def iter_table(
    path: str | Path,
    *,
    columns: Mapping[str, ColumnType] | None = None,
    chunk_rows: int = 65536,
    missing: Iterable[str] = (),
    encoding: str = "utf-8",
) -> Iterator[pd.DataFrame]:
    """Yield a CSV or Parquet table (CSV may be compressed) as frames of at most ``chunk_rows`` rows.

    Memory holds one chunk and one block of the file. Every chunk has the dtypes of the whole: ``"number"`` is
    float64 (booleans too), ``"time"`` datetime64, ``"text"`` text; together the chunks equal the features of
    :func:`read_table`.

    Args:
        path: the file.
        columns: type of every column to read; by default all, typed by :func:`column_types` in a first pass.
        chunk_rows: rows in a chunk; all but the last have exactly as many.
        missing: further texts that stand for a missing value.
        encoding: of a text file.

    Raises:
        DataError: for an absent column, a malformed row, or a cell that is not of its column's type.

    Examples:
        >>> import tempfile, pathlib
        >>> p = pathlib.Path(tempfile.mkdtemp()) / "a.csv"
        >>> _ = p.write_text("age,site\\n30,N\\n,S\\n50,S\\n")
        >>> [len(c) for c in iter_table(p, columns={"age": "number", "site": "text"}, chunk_rows=2)]
        [2, 1]
    """
    check_number("chunk_rows", chunk_rows, low=1, integer=True)
    path, kind = check_file(path), file_type(path)
    if kind not in ("csv", "parquet"):
        raise DataError(f"{path}: only CSV and Parquet are read in chunks; convert it, or read it whole")
    if columns is None:
        columns = {n: t for n, t in column_types(path, missing=missing, encoding=encoding).items() if n}
    for name, t in columns.items():
        check_choice(f"columns[{name!r}]", t, ("number", "text", "time"))
    check_columns(path.name, column_names(path, encoding), columns=list(columns))
    if kind == "parquet":
        batches: Iterator[pa.RecordBatch] = pq.ParquetFile(path).iter_batches(chunk_rows, columns=list(columns))
    else:
        batches = _typed_csv_chunks(path, columns, [*MISSING, *missing], encoding)
    return (_chunk_frame(t, columns, path.name) for t in _rebatched(batches, chunk_rows))


def _chunk_frame(table: pa.Table, columns: Mapping[str, ColumnType], source: str) -> pd.DataFrame:
    out = {}
    for name, t in columns.items():
        column = table[name]
        column = column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
        column = feature(column, at(source, name), as_text=t == "text")
        if t == "number" and is_text(column.type):
            raise DataError(f"{at(source, name)} was to be numbers but holds texts, for one {column[0].as_py()!r}")
        if t == "time" and is_text(column.type):
            column = _as_time(column, at(source, name))
        out[name] = column
    return pa.table(out).to_pandas()


def _as_time(column: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    """Read the dates that a typed file keeps as texts."""
    for _, t in [p for p in _PARSES if p[0] == "time"]:
        try:
            return feature(column.cast(t), where)
        except pa.ArrowInvalid:
            continue
    words = column.drop_null().to_pylist()
    odd = next(w for w in words if not _castable(pa.array([w]), pa.timestamp("us")))
    raise DataError(f"{where} was to be dates but holds {odd!r}; write dates as 2024-01-31")


def _typed_csv_chunks(
    path: Path, columns: Mapping[str, ColumnType], missing: Sequence[str], encoding: str
) -> Iterator[pa.RecordBatch]:
    # The first block tells numbers from booleans and whether times name their zone; later blocks must agree.
    first = next(_csv_chunks(path, dict.fromkeys(columns, pa.string()), missing, encoding), None)
    types: dict[str, pa.DataType] = {}
    for name, t in columns.items():
        types[name] = next(parse for kind, parse in _PARSES if kind == t)
        cells = None if t == "text" or first is None else first[name].drop_null()
        if cells is not None and len(cells):
            kind, parse = _PARSES[_parse_of(cells)]
            types[name] = parse if kind == t else types[name]
    yield from _csv_chunks(path, types, missing, encoding)


def _csv_chunks(
    path: Path, types: Mapping[str, pa.DataType], missing: Sequence[str], encoding: str
) -> Iterator[pa.RecordBatch]:
    names, delimiter = csv_header(path, encoding)
    unique = [n or f"\0{i}" for i, n in enumerate(names)]
    read, parse, shared, bad = csv_options(unique, delimiter, encoding, missing, _BLOCK)
    convert = pa_csv.ConvertOptions(include_columns=list(types), column_types=dict(types), **shared)
    try:
        with (
            pa.input_stream(str(path), compression="detect") as stream,
            pa_csv.open_csv(stream, read, parse, convert) as reader,
        ):
            yield from reader
    except pa.ArrowInvalid as e:
        if bad:
            raise DataError(f"{path}: a malformed row: {bad[0]}; quote values that hold {delimiter!r}") from e
        if str(e).startswith("Empty CSV"):
            raise DataError(f"{path} has a header but no rows") from e
        cell = re.search(r"column #(\d+).*invalid value '(.*)'", str(e), re.DOTALL)
        if cell:
            name = names[int(cell[1])] if int(cell[1]) < len(names) else cell[1]
            kind = next((k for k, t in _PARSES if t == types.get(name)), "number")
            row = _row_of(path, name, cell[2], missing, encoding)
            raise DataError(
                f"{at(path.name, name, row)}: {cell[2]!r} is no {'date' if kind == 'time' else kind}; correct it, or "
                f"count it as missing with missing=[{cell[2]!r}]"
            ) from e
        raise DataError(f"{path} cannot be read: {e}") from e


def _row_of(path: Path, name: str, cell: str, missing: Sequence[str], encoding: str) -> int | None:
    """Return the first row whose cell is this text, in a second pass."""
    start = 0
    for chunk in _csv_chunks(path, {name: pa.string()}, missing, encoding):
        for i, value in enumerate(chunk[name].to_pylist()):
            if value is not None and value.strip() == cell.strip():
                return start + i
        start += chunk.num_rows
    return None


def _rebatched(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """Cut and join batches so that each table has ``rows`` rows, the last what is left."""
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        while batch.num_rows:
            part = batch.slice(0, rows - count)
            batch = batch.slice(part.num_rows)
            held.append(part)
            count += part.num_rows
            if count == rows:
                yield pa.Table.from_batches(held)
                held, count = [], 0
    if held:
        yield pa.Table.from_batches(held)
