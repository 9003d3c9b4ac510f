"""One copy of the data for all workers: a file that every process maps into memory instead of reading it."""

from __future__ import annotations

import hashlib
import mmap
import os
import pickle
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from pandas.util import hash_pandas_object

from holdfast.data import Environments

__all__ = ["attach", "fingerprint", "from_fields", "share", "to_fields"]

_ALIGN = 64


def to_fields(data: Environments) -> dict[str, Any]:
    """Return plain fields of ``data`` that can be sent to another process without a copy of the arrays."""
    return {
        "x": data.x,
        "y": data.y,
        "environment": data.environment,
        "names": data.names,
        "attributes": dict(data.attributes),
    }


def from_fields(fields: dict[str, Any]) -> Environments:
    """Undo :func:`to_fields`."""
    return Environments(**fields)


def share(data: Environments, path: Path) -> Path:
    """Write ``data`` so that :func:`attach` in any process of this machine maps its arrays (pickle protocol 5).

    The file is scratch of one run: made here, read by our own workers, removed when the run ends.
    """
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(to_fields(data), protocol=5, buffer_callback=buffers.append)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.part")
    with temporary.open("wb") as file:
        spans = []
        for buffer in buffers:
            file.seek(-(-file.tell() // _ALIGN) * _ALIGN)
            raw = buffer.raw()
            spans.append((file.tell(), raw.nbytes))
            file.write(raw)
        tail = pickle.dumps((head, spans), protocol=5)
        file.write(tail)
        file.write(len(tail).to_bytes(8, "little"))
    temporary.replace(path)
    return path


def attach(path: Path) -> Environments:
    """Map the data that :func:`share` wrote; pages are read on demand and shared between processes."""
    with Path(path).open("rb") as file:
        mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    size = int.from_bytes(mapped[-8:], "little")
    head, spans = pickle.loads(mapped[-8 - size : -8])
    return from_fields(pickle.loads(head, buffers=[mapped[start : start + n] for start, n in spans]))


def fingerprint(data: Environments) -> str:
    """Return a digest of samples, labels, environments and attributes; equal data give equal digests.

    Examples:
        >>> a = Environments.from_arrays([[0.0], [1.0]], [0, 1], ["A", "B"])
        >>> b = Environments.from_arrays([[0.0], [1.5]], [0, 1], ["A", "B"])
        >>> fingerprint(a) == fingerprint(a), fingerprint(a) == fingerprint(b)
        (True, False)
    """
    digest = hashlib.sha256()
    for name, value in (*to_fields(data).items(),):
        digest.update(name.encode())
        _update(digest, value)
    return digest.hexdigest()[:24]


def _update(digest: Any, value: Any) -> None:
    graph: Any = value
    if isinstance(value, pd.DataFrame):
        for column in value.columns:
            digest.update(f"{column}:{value[column].dtype}".encode())
            # pandas.util looks its functions up when asked, so their types are unknown.
            rows = cast("Any", hash_pandas_object)(value[column], index=False)
            digest.update(rows.to_numpy().tobytes())
    elif isinstance(value, np.ndarray) and value.dtype.kind != "O":
        digest.update(f"{value.dtype.str}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value))
    elif isinstance(value, dict):
        for key in sorted(value):
            digest.update(str(key).encode())
            _update(digest, value[key])
    elif isinstance(value, (list, tuple)):
        for entry in value:
            _update(digest, entry)
            digest.update(b"\x1e")
    elif hasattr(value, "to_dict"):
        _update(digest, graph.to_dict())
    elif hasattr(value, "numpy"):
        _update(digest, graph.detach().cpu().numpy())
    else:
        digest.update(repr(value).encode() if not isinstance(value, str) else value.encode())
