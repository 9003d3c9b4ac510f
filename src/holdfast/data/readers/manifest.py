"""Manifests: a table that lists files with their labels and environments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from holdfast.data.environments import Environments
from holdfast.data.errors import DataError
from holdfast.data.labels import Task
from holdfast.data.readers.columns import (
    at,
    attribute_values,
    decoded,
    environment_codes,
    first_null,
    label_values,
    warn_absent,
)
from holdfast.data.readers.frames import check_columns, column_names, needed_columns, read_arrow
from holdfast.data.readers.images import IMAGE_SUFFIXES, Mode, Size, load_images

__all__ = ["read_manifest"]


def read_manifest(
    path: str | Path,
    *,
    file: str = "path",
    label: str = "label",
    environment: str | None = "environment",
    attributes: Sequence[str] = (),
    root: str | Path | None = None,
    size: Size = None,
    mode: Mode = "auto",
    task: Task | None = None,
    workers: int | None = None,
) -> Environments:
    """Read the files that a CSV, JSON, JSON-lines or Parquet manifest lists.

    Files are images (decoded as in :func:`holdfast.data.read_images`), ``.txt`` texts (UTF-8), or ``.npy``
    arrays: vectors, images, trajectories, or sets when their lengths differ. All must be of one kind.

    Args:
        path: the manifest.
        file: column of the paths, absolute or relative to ``root``.
        label, environment, attributes: columns, as in :func:`holdfast.data.read_table`.
        root: folder that paths are relative to; by default the manifest's.
        size, mode, workers: as in :func:`holdfast.data.read_images`.
        task: as in :func:`holdfast.data.read_table`.

    Raises:
        DataError: as the table and image readers, and for a listed file that is absent (with its row).

    Examples:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> for i in range(4):
        ...     _ = (root / f"{i}.txt").write_text(f"text {i}")
        >>> rows = ["path,label,environment", "0.txt,no,N", "1.txt,yes,N", "2.txt,no,S", "3.txt,yes,S"]
        >>> _ = (root / "list.csv").write_text("\\n".join(rows))
        >>> read_manifest(root / "list.csv").x[3]
        'text 3'
    """
    path = Path(path)
    check_columns(path.name, column_names(path), file=file, label=label, environment=environment, attributes=attributes)
    needed = needed_columns([file, *attributes], label, environment)
    table = read_arrow(path, needed, text=[file])
    listed = decoded(table[file])
    row, count = first_null(listed)
    if count:
        raise DataError(f"{at(path.name, file, row)}: the path is missing ({count} are); fill it in or drop the row")
    base = Path(root).expanduser() if root is not None else path.parent
    files = [base / f for f in listed.to_pylist()]
    for i, f in enumerate(files):
        if not f.is_file():
            fix = "" if root is not None else "; paths are relative to the manifest's folder unless root= is given"
            raise DataError(f"{at(path.name, file, i)}: there is no file {f}{fix}")
    y = label_values(table[label], path.name, label, task)
    codes, names = (
        (None, None) if environment is None else environment_codes(table[environment], path.name, environment)
    )
    kept: dict[str, Any] = {a: attribute_values(table[a]) for a in attributes}
    x = _load(files, path.name, size, mode, workers)
    data = Environments.from_arrays(x, y, codes, {"file": np.array(listed.to_pylist()), **kept}, names=names)
    return warn_absent(data, path.name)


def _load(files: list[Path], source: str, size: Size, mode: Mode, workers: int | None) -> Any:
    kinds = ["image" if f.suffix.lower() in IMAGE_SUFFIXES else f.suffix.lower() for f in files]
    for i, kind in enumerate(kinds):
        if kind not in ("image", ".txt", ".npy"):
            raise DataError(f"{source}, row {i}: {files[i].name} is no image, .txt or .npy file")
        if kind != kinds[0]:
            raise DataError(f"{source}, row {i}: {files[i].name} is of another kind than {files[0].name} in row 0")
    if kinds[0] == "image":
        return load_images(files, size=size, mode=mode, workers=workers)
    if kinds[0] == ".txt":
        return [_read_txt(f) for f in files]
    return [_read_npy(f) for f in files]


def _read_txt(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as e:
        raise DataError(f"{file} is not UTF-8 text: {e}") from e


def _read_npy(file: Path) -> np.ndarray:
    try:
        return np.load(file, allow_pickle=False)
    except (ValueError, OSError, EOFError) as e:
        raise DataError(f"{file} is no readable .npy array without Python objects: {e}") from e
