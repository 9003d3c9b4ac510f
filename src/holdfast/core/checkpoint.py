"""A training state on disk that is whole at every moment: written beside, then renamed into place."""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

__all__ = ["CheckpointError", "atomic_write", "checkpoint_path", "read_checkpoint", "write_checkpoint"]

FORMAT = 1
_NAME = "last.pt"


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or that belongs to another run."""


def atomic_write(path: str | os.PathLike[str], write: Callable[[BinaryIO], object]) -> Path:
    """Let ``write`` fill a new file beside ``path``, flush it to the disk, and rename it to ``path``.

    A reader sees the old file or the new one, never a part; a failed write leaves nothing behind.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     atomic_write(Path(folder) / "a.txt", lambda f: f.write(b"whole")).read_bytes()
        b'whole'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as f:
            write(f)
            f.flush()
            os.fsync(f.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path


def checkpoint_path(folder: str | os.PathLike[str]) -> Path:
    """Return where the folder's checkpoint is."""
    return Path(folder) / _NAME


def write_checkpoint(folder: str | os.PathLike[str], state: dict[str, Any]) -> Path:
    """Write ``state`` (tensors, numbers, strings, lists and dictionaries) as the folder's only checkpoint."""
    path = checkpoint_path(folder)
    return atomic_write(path, lambda f: torch.save({"format": FORMAT, **_plain(state)}, f))


def read_checkpoint(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the folder's checkpoint, or ``None`` if there is none. Loads tensors and plain values only.

    Raises:
        CheckpointError: if the file is damaged or of a newer format.
    """
    path = checkpoint_path(folder)
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch's message advises loading it anyway, which would run whatever code the file names.
        raise CheckpointError(
            f"{path} holds something other than tensors and plain values, or is damaged; delete it to start anew"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is not a readable checkpoint ({error}); delete it to start anew") from error
    if not isinstance(state, dict) or "format" not in state:
        raise CheckpointError(f"{path} is not a checkpoint of this library; delete it to start anew")
    if state["format"] > FORMAT:
        raise CheckpointError(
            f"{path} has format {state['format']}, this version reads up to {FORMAT}: upgrade holdfast"
        )
    return state


def _plain(value: Any) -> Any:
    """Replace NumPy scalars, which a checkpoint cannot hold, by Python's numbers."""
    if isinstance(value, dict):
        return {_plain(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_plain, value)) if type(value) in (list, tuple) else value
    return value.item() if isinstance(value, np.generic) else value
