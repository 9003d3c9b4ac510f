"""Reading the array files that commands are given."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

__all__ = ["load_array", "open_arrays"]


def open_arrays(path: Path, what: str) -> Any:
    """Open a .npy array or a .npz archive without pickled objects; ``what`` names it where it is neither.

    Raises:
        FileNotFoundError: when there is no file.
        ValueError: when the file is not what it should be.
    """
    import numpy as np

    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}")
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} is not a {what}: {error}") from error


def load_array(path: Path, holds: str) -> np.ndarray:
    """Return the one array of a .npy file; ``holds`` says what is expected of it.

    Raises:
        FileNotFoundError, ValueError: as :func:`open_arrays`, and for an archive.
    """
    import numpy as np

    array = open_arrays(path, ".npy file of a plain array")
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path} must hold {holds}, got an archive of arrays")
    return array
