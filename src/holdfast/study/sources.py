"""New data for a shipped model, a chunk at a time: tables, texts, images, arrays and graphs larger than memory."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd

from holdfast.data import DataError, iter_images, iter_table, load_images
from holdfast.data.errors import suggest
from holdfast.data.readers.frames import column_names
from holdfast.data.readers.images import IMAGE_SUFFIXES
from holdfast.data.readers.pick import detect
from holdfast.study.bundle import BundleInfo

__all__ = ["Chunk", "chunks", "map_array"]

_DEFAULT_ROWS = {"image": 1024, "graphs": 1024}


class Chunk(NamedTuple):
    """Consecutive samples: what names them, and what the classifier reads."""

    names: pd.DataFrame
    x: Any


def chunks(
    info: BundleInfo,
    path: str | Path,
    *,
    rows: int | None = None,
    keep: Sequence[str] = (),
    missing: Sequence[str] = (),
) -> Iterator[Chunk]:
    """Yield the samples at ``path`` as the model of ``info`` reads them.

    Args:
        info: what the model was trained on.
        path: a table (CSV, Parquet), folder or manifest of images, ``.npy``, ``.npz`` or graphs.
        rows: samples in a chunk.
        keep: columns of a table to hand through, such as an identifier.
        missing: texts that stand for a missing value, beside those the model was trained with.

    Raises:
        DataError: for a column that is absent, samples of another width or size, or an unreadable file.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"there is nothing at {path}")
    rows = rows or _DEFAULT_ROWS.get(info.kind, 16384)
    if keep and info.kind not in ("table", "text"):
        raise DataError(f"only columns of a table can be kept; this model reads {info.kind}")
    if missing:
        info = replace(info, reading=info.reading | {"missing": [*info.reading.get("missing", ()), *missing]})
    reader = {"table": _table, "text": _text, "image": _images, "vector": _arrays}.get(info.kind, _whole)
    return reader(info, path, rows, tuple(keep))


def _numbered(start: int, n: int, kept: pd.DataFrame | None = None) -> pd.DataFrame:
    row = pd.DataFrame({"row": np.arange(start, start + n)})
    return row if kept is None or kept.empty else row.join(kept.reset_index(drop=True))


def _frames(info: BundleInfo, path: Path, columns: dict[str, Any], rows: int) -> Iterator[pd.DataFrame]:
    """Chunks of a table with the types the model was trained on; JSON lines are streamed too, JSON is read whole."""
    if path.suffix.lower() not in (".json", ".jsonl", ".ndjson"):
        names = column_names(path)
        for name in columns:
            if name not in names:
                role = "the model reads it" if name in info.columns else "it was asked for"
                raise DataError(f"{path.name} has no column {name!r}, and {role}{suggest(name, names)}")
        yield from iter_table(path, columns=columns, chunk_rows=rows, missing=info.reading.get("missing", ()))
        return
    try:
        whole = path.suffix.lower() == ".json"
        options: dict[str, Any] = {} if whole else {"lines": True, "chunksize": rows}
        read: Any = pd.read_json(path, dtype=False, **options)  # pyright: ignore[reportArgumentType, reportCallIssue]
        for frame in [read] if whole else read:
            for name in columns:
                if name not in frame.columns:
                    raise DataError(f"{path.name} has no column {name!r}; it has {', '.join(map(str, frame.columns))}")
            as_type = {"number": pd.to_numeric, "time": pd.to_datetime, "text": lambda c: c.astype("string")}
            typed = pd.DataFrame({name: as_type[kind](frame[name]) for name, kind in columns.items()})
            for start in range(0, len(typed), rows):
                yield typed.iloc[start : start + rows].reset_index(drop=True)
    except DataError:
        raise
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: {error}") from error


def _table(info: BundleInfo, path: Path, rows: int, keep: tuple[str, ...]) -> Iterator[Chunk]:
    columns = dict(info.columns) | {k: "text" for k in keep if k not in info.columns}
    start = 0
    for frame in _frames(info, path, columns, rows):
        yield Chunk(_numbered(start, len(frame), cast("pd.DataFrame", frame[list(keep)])), frame[list(info.columns)])
        start += len(frame)


def _text(info: BundleInfo, path: Path, rows: int, keep: tuple[str, ...]) -> Iterator[Chunk]:
    text = str(info.reading.get("text") or "text")
    start = 0
    if path.suffix == ".txt":
        lines = path.read_text(encoding="utf-8").splitlines()
        for start in range(0, len(lines), rows):
            part = lines[start : start + rows]
            yield Chunk(_numbered(start, len(part)), part)
        return
    for frame in _frames(info, path, {text: "text"} | dict.fromkeys(keep, "text"), rows):
        texts = frame[text].fillna("").astype(str).tolist()
        yield Chunk(_numbered(start, len(frame), cast("pd.DataFrame", frame[list(keep)])), texts)
        start += len(frame)


def _images(info: BundleInfo, path: Path, rows: int, keep: tuple[str, ...]) -> Iterator[Chunk]:
    channels, height, width = info.shape
    if path.suffix in (".npz", ".npy"):
        yield from _arrays(info, path, rows, keep)
        return
    if channels not in (1, 3):
        raise DataError(f"the model reads images of {channels} channels; give them as .npy or .npz")
    mode = "L" if channels == 1 else "RGB"
    if path.is_dir() or path.suffix.lower() in IMAGE_SUFFIXES:
        for files, x in iter_images(path, size=(height, width), mode=mode, chunk=rows):
            names = [str(f.relative_to(path)) if path.is_dir() else str(f) for f in files]
            yield Chunk(pd.DataFrame({"file": names}), x)
        return
    column = str(info.reading.get("file") or "path")
    for frame in _frames(info, path, {column: "text"}, rows):
        files = [path.parent / f for f in frame[column]]
        x = load_images(files, size=(height, width), mode=mode)
        yield Chunk(pd.DataFrame({"file": frame[column].tolist()}), x)


def _arrays(info: BundleInfo, path: Path, rows: int, keep: tuple[str, ...]) -> Iterator[Chunk]:
    if path.suffix not in (".npz", ".npy"):
        raise DataError(f"this model reads arrays; expected a .npy or .npz file with an array 'x', got {path}")
    x = map_array(path)
    shape = tuple(info.shape)
    if info.kind == "image" and x.ndim == 3 and shape[0] == 1:
        x = x[:, None]
    if info.kind == "image" and x.ndim == 4 and x.shape[1:] != shape and (x.shape[3], *x.shape[1:3]) == shape:
        x = np.moveaxis(x, -1, 1)
    if x.shape[1:] != shape:
        raise DataError(f"{path}: samples have shape {x.shape[1:]}, but the model was trained on {shape}")
    for start in range(0, len(x), rows):
        part = np.array(x[start : start + rows])
        yield Chunk(_numbered(start, len(part)), part)


def _whole(info: BundleInfo, path: Path, rows: int, keep: tuple[str, ...]) -> Iterator[Chunk]:
    """Graphs and sets: read at once, predicted in chunks."""
    from holdfast.data import read
    from holdfast.data.samples import take

    if detect(path) not in ("graphs", "npz"):
        raise DataError(f"this model reads {info.kind}; {path} holds {detect(path)}")
    x = read(path, **info.reading).x
    for start in range(0, len(x), rows):
        part = take(x, slice(start, start + rows))
        yield Chunk(_numbered(start, len(part)), part)


def map_array(path: Path, name: str = "x") -> np.ndarray:
    """Map an array of a ``.npy`` file, or of an uncompressed ``.npz``, into memory; read a compressed one.

    Raises:
        DataError: when the file is damaged or holds no such array.
    """
    try:
        if path.suffix == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)
        with zipfile.ZipFile(path) as archive:
            names = [n.removesuffix(".npy") for n in archive.namelist()]
            if name not in names:
                raise DataError(f"{path} holds no array {name!r}; it holds {', '.join(names)}")
            entry = archive.getinfo(f"{name}.npy")
            if entry.compress_type == zipfile.ZIP_STORED:
                return _map_stored(path, entry)
        with np.load(path, allow_pickle=False) as arrays:
            return arrays[name]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read: {error}") from error


def _map_stored(path: Path, entry: zipfile.ZipInfo) -> np.ndarray:
    with path.open("rb") as file:
        file.seek(entry.header_offset)
        header = file.read(30)
        # A local file header: 30 bytes, then the name and an extra field whose lengths are its last two numbers.
        file.seek(
            entry.header_offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:], "little")
        )
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
        if dtype.hasobject:
            raise DataError(f"{path} holds Python objects, which are not read")
        return np.memmap(path, dtype, "r", file.tell(), shape, "F" if fortran else "C")
