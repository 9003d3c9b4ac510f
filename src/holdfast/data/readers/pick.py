"""One door for all files: the reader is picked by what is found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from holdfast.core.checks import check_choice
from holdfast.data.environments import Environments
from holdfast.data.errors import DataError
from holdfast.data.labels import Task
from holdfast.data.readers.frames import check_file, column_names, file_type, read_arrow
from holdfast.data.readers.graphs import read_graphs
from holdfast.data.readers.images import IMAGE_SUFFIXES, Size, read_images
from holdfast.data.readers.manifest import read_manifest
from holdfast.data.readers.npz import load_archive, read_npz
from holdfast.data.readers.table import read_table
from holdfast.data.readers.text import read_text

__all__ = ["DataFormat", "detect", "read"]

DataFormat = Literal["table", "text", "images", "manifest", "npz", "graphs"]
_FORMATS = ("table", "text", "images", "manifest", "npz", "graphs")


def detect(path: str | Path) -> DataFormat:
    """Say which reader fits: by the suffix, and for tables by their columns.

    A folder holds images. A table with a column ``path`` (or ``file``) of image, text or array files is a
    manifest; with ``edge_index`` it holds graphs. Texts are tables unless ``read`` is told their column.

    Raises:
        DataError: for a file of no known type.
    """
    path = check_file(path)
    if path.is_dir():
        return "images"
    kind = file_type(path)
    if kind == ".npz":
        return "graphs" if "edge_index" in load_archive(path) else "npz"
    if kind in (".pt", ".pth"):
        return "graphs"
    if kind not in ("csv", "parquet", "json", "jsonl"):
        raise DataError(
            f"{path} has no known type ({kind or 'no suffix'}); expected a folder of images, .csv, .tsv, .parquet, "
            ".json, .jsonl, .npz or .pt"
        )
    names = column_names(path)
    if "edge_index" in names:
        return "graphs"
    return "manifest" if _file_column(path, names) else "table"


def _file_column(path: Path, names: Sequence[str]) -> str | None:
    for name in ("path", "file", "filename", "image"):
        if name in names:
            first = read_arrow(path, [name], text=[name])[name][0].as_py()
            if first and Path(first).suffix.lower() in (*IMAGE_SUFFIXES, ".txt", ".npy"):
                return name
    return None


def read(
    path: str | Path,
    *,
    format: DataFormat | None = None,
    label: str | None = None,
    environment: str | None = None,
    attributes: Sequence[str] = (),
    text: str | None = None,
    columns: Sequence[str] | None = None,
    drop: Sequence[str] = (),
    categorical: Sequence[str] = (),
    size: Size = None,
    task: Task | None = None,
    missing: Iterable[str] = (),
) -> Environments:
    """Read whatever ``path`` holds: see :func:`detect` for the choice, and the reader itself for the rest.

    Args:
        path: file or folder.
        format: names the reader instead of detecting it.
        label: column or array of the labels; by default ``"label"``, ``"y"``, ``"target"`` or ``"class"``,
            whichever is there.
        environment: column or array of the environments; by default ``"environment"``, ``"env"``, ``"domain"``
            or ``"site"``, whichever is there, else all is one environment.
        attributes: columns or arrays of protected or spurious facts.
        text: column of the texts: the table is read as texts.
        columns, drop, categorical, missing: of a table.
        size: of images.
        task: ``"classification"`` or ``"regression"``.

    Raises:
        DataError: from the reader, or for an argument that this reader does not take.

    Examples:
        >>> import tempfile
        >>> p = Path(tempfile.mkdtemp()) / "visits.csv"
        >>> _ = p.write_text("age,site,label\\n30,N,no\\n40,N,yes\\n50,S,no\\n61,S,yes\\n")
        >>> read(p).names
        ('N', 'S')
    """
    path = check_file(path)
    if format is not None:
        check_choice("format", format, _FORMATS)
    chosen = format or ("text" if text is not None and path.is_file() else detect(path))
    takes = {
        "table": {"columns", "drop", "categorical", "missing", "attributes", "label", "environment", "task"},
        "text": {"text", "missing", "attributes", "label", "environment", "task"},
        "images": {"size"},
        "manifest": {"size", "attributes", "label", "environment", "task"},
        "npz": {"attributes", "label", "environment", "task"},
        "graphs": {"attributes", "label", "environment", "task"},
    }[chosen]
    given: dict[str, Any] = {
        "label": label,
        "environment": environment,
        "attributes": attributes or None,
        "text": text,
        "columns": columns,
        "drop": drop or None,
        "categorical": categorical or None,
        "size": size,
        "task": task,
        "missing": list(missing) or None,
    }
    given = {k: v for k, v in given.items() if v is not None}
    for name in given.keys() - takes:
        raise DataError(f"{path} is read as {chosen}, which takes no {name}; it takes {', '.join(sorted(takes))}")
    if chosen == "images":
        return read_images(path, **given)
    names = _names(path, chosen)
    given["label"] = label or _first(names, ("label", "y", "target", "class"), path, "label")
    given["environment"] = environment or _first(names, ("environment", "env", "domain", "site"), path, None)
    if chosen == "manifest":
        return read_manifest(path, file=_file_column(path, names) or "path", **given)
    if chosen == "text":
        return read_text(path, **given)
    if chosen == "npz":
        return read_npz(path, **given)
    return read_graphs(path, **given) if chosen == "graphs" else read_table(path, **given)


def _names(path: Path, chosen: str) -> list[str]:
    kind = file_type(path)
    if kind == ".npz":
        return list(load_archive(path))
    return ["y", "environment"] if kind in (".pt", ".pth") else column_names(path)


def _first(names: Sequence[str], candidates: Sequence[str], path: Path, role: str | None) -> str | None:
    found = next((c for c in candidates if c in names), None)
    if found is None and role is not None:
        shown = ", ".join(map(repr, names[:10]))
        raise DataError(f"{path}: which column is the {role}? pass {role}=; there is {shown}")
    return found
