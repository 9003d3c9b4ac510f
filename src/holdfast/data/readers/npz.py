"""NumPy archives with arrays ``x``, ``y``, ``environment`` and any attributes; never pickled objects."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from holdfast.data.environments import Environments
from holdfast.data.errors import DataError, suggest
from holdfast.data.labels import Task
from holdfast.data.readers.columns import environment_codes, label_values, warn_absent
from holdfast.data.readers.frames import check_file
from holdfast.data.samples import Kind

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["read_npz"]

CSR_PARTS = ("data", "indices", "indptr", "shape")
"""The arrays of a matrix in compressed rows."""


def load_archive(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an ``.npz`` file, refusing pickled objects."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {k: archive[k] for k in archive.files}
    except ValueError as e:
        raise DataError(f"{path} holds Python objects; save plain arrays (texts with dtype str): {e}") from e
    except (OSError, zipfile.BadZipFile, EOFError) as e:
        raise DataError(f"{path} is no readable .npz file: {e}") from e


def stored_csr(arrays: Mapping[str, np.ndarray]) -> csr_matrix:
    """Return the matrix whose :data:`CSR_PARTS` an archive holds."""
    from scipy.sparse import csr_matrix

    data, indices, indptr, shape = (arrays[k] for k in CSR_PARTS)
    return csr_matrix((data, indices, indptr), shape=tuple(shape))


def read_npz(
    path: str | Path,
    *,
    x: str = "x",
    label: str = "y",
    environment: str | None = "environment",
    attributes: Sequence[str] | None = None,
    kind: Kind | None = None,
    task: Task | None = None,
) -> Environments:
    """Read samples, labels and environments from the arrays of an ``.npz`` file.

    ``x`` may be vectors (n, d), trajectories (n, T, d), images (n, C, H, W), (n, H, W, C) or grey uint8
    (n, H, W), or texts (n,). Ragged sets are the points (N, d) one set after another, with an integer array
    ``offsets`` (n + 1,): set i is ``x[offsets[i]:offsets[i + 1]]``. Codes become names where the archive has
    ``<array>_names``.

    Args:
        path: the file.
        x, label, environment: names of the arrays; ``environment=None`` reads one environment.
        attributes: arrays kept as attributes; by default every other array of shape (n,).
        kind: says what ``x`` is where its shape does not.
        task: ``"classification"`` or ``"regression"`` where the label leaves it open.

    Raises:
        DataError: for an array that is absent (with the closest name), pickled objects, or unusable labels.

    Examples:
        >>> import tempfile
        >>> p = Path(tempfile.mkdtemp()) / "a.npz"
        >>> np.savez(p, x=np.zeros((4, 3)), y=[0, 1, 0, 1], environment=["N", "N", "S", "S"])
        >>> read_npz(p).names
        ('N', 'S')
    """
    path = check_file(path)
    arrays = load_archive(path)
    for role, name in (("x", x), ("label", label), ("environment", environment)):
        if name is not None and name not in arrays:
            fix = "; environment=None reads one environment" if role == "environment" else ""
            raise DataError(f"{path.name} has no array {name!r} (given as {role}){suggest(name, arrays)}{fix}")
    samples = arrays[x]
    if "offsets" in arrays:
        cuts = arrays["offsets"]
        if cuts.ndim != 1 or cuts.dtype.kind not in "iu" or cuts[0] != 0 or cuts[-1] != len(samples):
            raise DataError(f"{path.name}: offsets must be integers from 0 to {len(samples)}, the rows of {x!r}")
        if (np.diff(cuts.astype(np.int64)) < 1).any():
            raise DataError(f"{path.name}: offsets must increase; set {int(np.argmax(np.diff(cuts) < 1))} is empty")
        samples = np.split(samples, cuts[1:-1])
    n = len(samples)
    labels = label_values(_column(arrays, label, n, path), path.name, label, task)
    codes, names = None, None
    if environment is not None:
        codes, names = environment_codes(_column(arrays, environment, n, path), path.name, environment)
    if attributes is None:
        used = {x, label, environment, "offsets"}
        attributes = [k for k, v in arrays.items() if v.shape == (n,) and k not in used and not k.endswith("_names")]
    kept = {a: named_values(arrays, a, n, path) for a in attributes}
    data = Environments.from_arrays(samples, labels, codes, kept, names=names, kind=kind)
    return warn_absent(data, path.name)


def named_values(
    arrays: Mapping[str, np.ndarray], name: str, n: int, path: Path, role: str = "attribute"
) -> np.ndarray:
    """Return an array of shape (n,), its codes replaced by names where there are any."""
    if name not in arrays:
        raise DataError(f"{path.name} has no array {name!r} (given as {role}){suggest(name, arrays)}")
    values, names = arrays[name], arrays.get(f"{name}_names")
    values = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
    if values.shape != (n,):
        raise DataError(f"{path.name}: {name!r} must have shape ({n},), one entry for each sample, got {values.shape}")
    if names is None or values.dtype.kind not in "iu":
        return values
    if values.min() < 0 or values.max() >= len(names):
        raise DataError(f"{path.name}: {name!r} must index the {len(names)} entries of {name}_names")
    return names[values]


def _column(arrays: dict[str, np.ndarray], name: str, n: int, path: Path) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(named_values(arrays, name, n, path), from_pandas=True)])
