"""Files of rows and columns as Arrow tables: delimited text, Parquet, JSON and JSON lines, compressed or not."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.json as pa_json
import pyarrow.parquet as pq

from holdfast.data.errors import DataError, suggest

__all__ = ["MISSING", "check_columns", "column_names", "csv_options", "file_type", "needed_columns", "read_arrow"]

MISSING: tuple[str, ...] = (
    *("", "NA", "N/A", "n/a", "NaN", "nan", "-NaN", "-nan", "NULL", "null", "#N/A", "#NA", "<NA>", "None"),
    *("#N/A N/A", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"),
)
_TYPES = {
    ".csv": "csv",
    ".tsv": "csv",
    ".tab": "csv",
    ".txt": "csv",
    ".data": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
_PACKED = {".gz", ".bz2", ".zst", ".xz"}


def file_type(path: str | Path) -> str:
    """Return ``"csv"``, ``"parquet"``, ``"json"``, ``"jsonl"``, or the suffix itself when it is none of these.

    Examples:
        >>> file_type("visits.csv.gz"), file_type("a.npz")
        ('csv', '.npz')
    """
    suffixes = [s.lower() for s in Path(path).suffixes]
    while suffixes and suffixes[-1] in _PACKED:
        suffixes.pop()
    suffix = suffixes[-1] if suffixes else ""
    return _TYPES.get(suffix, suffix)


def check_file(path: str | Path) -> Path:
    """Return the path if there is a file with something in it."""
    path = Path(path).expanduser()
    if not path.exists():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"there is no file {path}{suggest(path.name, siblings) if siblings else ''}")
    if path.is_file() and path.stat().st_size == 0:
        raise DataError(f"{path} is empty (0 bytes)")
    return path


def csv_header(path: Path, encoding: str = "utf-8") -> tuple[list[str], str]:
    """Return the column names and the delimiter of a delimited text file."""
    head = b""
    try:
        with pa.input_stream(str(path), compression="detect") as stream:
            while b"\n" not in head.lstrip() and (block := stream.read(1 << 16)):
                head += block
        text = head.decode("utf-8-sig" if encoding.lower().replace("-", "") == "utf8" else encoding, "replace")
    except (OSError, pa.ArrowException) as e:
        raise DataError(f"{path} cannot be read: {e}") from e
    lines = text.lstrip("\r\n").splitlines()
    if not lines:
        raise DataError(f"{path} is empty")
    counts = {d: lines[0].count(d) for d in (",", ";", "\t", "|")}
    delimiter = max(counts, key=lambda d: counts[d]) if any(counts.values()) else ","
    return [n.strip() for n in next(csv.reader(lines[:1], delimiter=delimiter))], delimiter


def csv_options(
    names: Sequence[str], delimiter: str, encoding: str, missing: Iterable[str], block_size: int = 1 << 22
) -> tuple[pa_csv.ReadOptions, pa_csv.ParseOptions, dict[str, Any], list[str]]:
    """Return Arrow's read and parse options, the shared conversion options, and a list that collects bad rows."""
    bad: list[str] = []

    def on_bad_row(row: Any) -> str:
        where = "" if row.number is None else f" in line {row.number}"
        bad.append(f"expected {row.expected_columns} columns, got {row.actual_columns}{where}: {row.text[:80]!r}")
        return "error"

    read = pa_csv.ReadOptions(
        column_names=list(names), skip_rows=1, encoding=encoding, block_size=block_size, use_threads=True
    )
    parse = pa_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=on_bad_row)
    convert = {
        "null_values": list(missing),
        "strings_can_be_null": True,
        "true_values": ["true", "True", "TRUE"],
        "false_values": ["false", "False", "FALSE"],
    }
    return read, parse, convert, bad


def needed_columns(columns: Sequence[str], label: str, environment: str | None) -> list[str]:
    """Return the columns to read, each once."""
    names: list[str] = [*columns, label]
    if environment is not None:
        names.append(environment)
    return list(dict.fromkeys(names))


def column_names(path: str | Path, encoding: str = "utf-8") -> list[str]:
    """Return the names of the columns without reading the rows of a CSV or Parquet file.

    Raises:
        DataError: for a file that is absent, empty or of no known type, or for a column named twice.
    """
    path, kind = check_file(path), file_type(path)
    if kind == "csv":
        names = csv_header(path, encoding)[0]
    elif kind == "parquet":
        try:
            names = pq.ParquetFile(path).schema_arrow.names
        except (OSError, pa.ArrowException) as e:
            raise DataError(f"{path} cannot be read as Parquet: {e}") from e
    else:
        names = _read_json(path, kind).column_names
    seen: set[str] = set()
    for name in names:
        if name and name in seen:
            raise DataError(f"{path}: column {name!r} appears more than once; rename one of the two")
        seen.add(name)
    return names


def read_arrow(
    path: str | Path,
    columns: Sequence[str],
    *,
    text: Sequence[str] = (),
    missing: Iterable[str] = MISSING,
    encoding: str = "utf-8",
) -> pa.Table:
    """Return the named columns as an Arrow table; those in ``text`` are not interpreted.

    Raises:
        DataError: for a file that cannot be read, with the line where a row is malformed, or without rows.
    """
    path, kind = check_file(path), file_type(path)
    try:
        if kind == "csv":
            table = _read_csv(path, columns, text, missing, encoding)
        elif kind == "parquet":
            table = pq.read_table(path, columns=list(columns))
        else:
            table = _read_json(path, kind).select(list(columns))
    except (OSError, UnicodeError, pa.ArrowException) as e:
        raise DataError(f"{path} cannot be read: {e}") from e
    if table.num_rows == 0:
        raise DataError(f"{path} has a header but no rows")
    for name in text:
        if name in table.column_names and not pa.types.is_string(table[name].type):
            i = table.column_names.index(name)
            table = table.set_column(i, name, table[name].cast(pa.string()))
    return table


def _read_csv(path: Path, columns: Sequence[str], text: Sequence[str], missing: Iterable[str], enc: str) -> pa.Table:
    names, delimiter = csv_header(path, enc)
    unique = [n or f"\0{i}" for i, n in enumerate(names)]
    read, parse, shared, bad = csv_options(unique, delimiter, enc, missing)
    as_text = {n: pa.string() for n in text if n in columns}
    convert = pa_csv.ConvertOptions(include_columns=list(columns), column_types=as_text, **shared)
    try:
        with pa.input_stream(str(path), compression="detect") as stream:
            table = pa_csv.read_csv(stream, read, parse, convert)
        clock = [f.name for f in table.schema if pa.types.is_time(f.type)]
        # A time of day has no date to count from: it stays the text it was.
        return _read_csv(path, columns, [*text, *clock], missing, enc) if clock else table
    except pa.ArrowInvalid as e:
        if bad:
            raise DataError(f"{path}: a malformed row: {bad[0]}; quote values that hold {delimiter!r}") from e
        hint = "; pass encoding='latin-1' (or the file's own)" if "UTF" in str(e) else ""
        raise DataError(f"{path} cannot be read: {e}{hint}") from e


def _read_json(path: Path, kind: str) -> pa.Table:
    try:
        with pa.input_stream(str(path), compression="detect") as stream:
            if kind == "jsonl":
                return pa_json.read_json(stream)
            if kind != "json":
                raise DataError(
                    f"{path} has no known type; expected .csv, .tsv, .parquet, .jsonl or .json (CSV and JSON may "
                    "be compressed: .gz)"
                )
            records = json.loads(stream.read())
    except (pa.ArrowException, ValueError) as e:
        if isinstance(e, DataError):
            raise
        raise DataError(f"{path} is no valid {'JSON lines' if kind == 'jsonl' else 'JSON'}: {e}") from e
    if isinstance(records, dict) and all(isinstance(v, list) for v in records.values()):
        return pa.table(records)
    if not isinstance(records, list) or not all(isinstance(r, dict) for r in records):
        raise DataError(f"{path} must hold a list of records [{{...}}, ...], or an object of equally long lists")
    return pa.Table.from_pylist(records) if records else pa.table({})


def check_columns(source: str | Path, names: Sequence[str], **roles: str | Sequence[str] | None) -> None:
    """Raise unless every column that a role names is there and the single-column roles name different ones.

    Examples:
        >>> check_columns("a.csv", ["y", "hospital"], label="y", environment="hopsital")
        Traceback (most recent call last):
        ...
        holdfast.data.errors.DataError: a.csv has no column 'hopsital' (given as environment); did you mean 'hospital'?
    """
    single: dict[str, str] = {}
    for role, given in roles.items():
        for name in [given] if isinstance(given, str) else (given or ()):
            if name not in names:
                raise DataError(f"{source} has no column {name!r} (given as {role}){suggest(name, names)}")
        if isinstance(given, str):
            if given in single:
                raise DataError(f"column {given!r} cannot be both the {single[given]} and the {role}")
            single[given] = role
