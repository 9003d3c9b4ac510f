"""Reading what ``holdfast generate`` learns from: folders of images, arrays and named data sets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

__all__ = ["GenerationData", "read_generation_data"]

_LABELS = ("y", "label", "labels", "target", "class")
_SAMPLES = ("x", "images", "image", "data", "samples")


@dataclass(frozen=True)
class GenerationData:
    """Samples, their labels if asked for, and what they are called."""

    name: str
    x: np.ndarray
    y: np.ndarray | None

    def rows(self, index: Any) -> GenerationData:
        """Return some of the samples."""
        return GenerationData(self.name, self.x[index], None if self.y is None else self.y[index])


def read_generation_data(
    source: str,
    *,
    labels: bool = False,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    limit: int | None = None,
    part: str = "train",
    seed: int = 0,
) -> GenerationData:
    """Read a folder of images, an ``.npz`` or ``.npy`` file, or a named data set.

    Args:
        source: path, or name of a data set; what exists as a path is a path.
        labels: read labels: the first folder below ``source``, the array ``y`` (or ``label``), or the data set's own.
        size: side, or height and width, to which images of a folder or a named set are resized.
        channels: 1 reads images of a folder as grey, 3 as colour; by default grey if all are.
        limit: samples kept, drawn at random.
        part: of a named data set that has parts.
        seed: of the draw.

    Raises:
        DataError: for data that cannot be read, hold no images or vectors, or have no labels.
    """
    import numpy as np

    from holdfast.core.checks import check_number
    from holdfast.data.errors import DataError

    if limit is not None:
        check_number("--limit", limit, low=2, integer=True)
    path = Path(source)
    if path.exists():
        data = _folder(path, labels, size, channels) if path.is_dir() else _arrays(path, labels, size)
    elif "/" in source or path.suffix:
        raise DataError(f"there is nothing at {source}")
    else:
        data = _named(source, labels, size, part)
    if limit is not None and limit < len(data.x):
        data = data.rows(np.sort(np.random.default_rng(seed).permutation(len(data.x))[:limit]))
    return data


def _folder(path: Path, labels: bool, size: int | tuple[int, int] | None, channels: int | None) -> GenerationData:
    import numpy as np

    from holdfast.data.errors import DataError
    from holdfast.data.readers.images import find_images, load_images

    files = find_images(path)
    y = None
    if labels:
        parts = [f.relative_to(path).parts for f in files]
        flat = next((f for f, p in zip(files, parts) if len(p) < 2), None)
        if flat is not None:
            raise DataError(f"--labels: {flat} lies in no class folder; expected {path}/CLASS/IMAGE")
        y = np.array([p[0] for p in parts])
    mode = {None: "auto", 1: "L"}.get(channels, "RGB")
    try:
        x = load_images(files, size=size, mode=mode)  # pyright: ignore[reportArgumentType]
    except DataError as error:
        found = re.search(r"pass size=\((\d+), (\d+)\)", str(error))
        if found is None:
            raise
        side = min(int(found[1]), int(found[2]))
        raise DataError(f"{str(error).split(';')[0]}; --image-size {side} resizes all") from None
    return GenerationData(path.resolve().name, x, y)


def _arrays(path: Path, labels: bool, size: int | tuple[int, int] | None) -> GenerationData:
    import numpy as np

    from holdfast.cli.arrays import open_arrays
    from holdfast.data.errors import DataError

    if path.suffix not in (".npz", ".npy"):
        raise DataError(f"{path} is not a folder of images, .npz or .npy file, nor the name of a data set")
    if size is not None:
        raise DataError(f"--image-size resizes folders and named data sets, not the arrays of {path}")
    loaded = open_arrays(path, ".npz or .npy file of plain arrays")
    if isinstance(loaded, np.ndarray):
        if labels:
            raise DataError(f"--labels: {path} holds one array and no labels; save an .npz with x and y")
        return GenerationData(path.stem, loaded, None)
    with loaded:
        names = list(loaded.files)
        x = next((n for n in _SAMPLES if n in names), None)
        if x is None:
            raise DataError(f"{path} has no array named x or images; it has {', '.join(names) or 'none'}")
        y = next((n for n in _LABELS if n in names), None)
        if labels and y is None:
            raise DataError(f"--labels: {path} has no array named y or label; it has {', '.join(names)}")
        return GenerationData(path.stem, loaded[x], loaded[y] if labels and y is not None else None)


def _named(name: str, labels: bool, size: int | tuple[int, int] | None, part: str) -> GenerationData:
    import numpy as np

    from holdfast.data import load_named
    from holdfast.data.errors import DataError
    from holdfast.data.named import named_options
    from holdfast.data.named.images import resize

    options = named_options(name)
    chosen: dict[str, Any] = {"part": part} if "part" in options else {}
    data = load_named(name, **chosen)
    x = data.x
    if data.kind not in ("image", "vector"):
        raise DataError(f"{name} holds {data.kind} data; a generator learns images or vectors")
    x = np.asarray(x)
    if size is not None:
        if data.kind != "image":
            raise DataError(f"--image-size resizes images; {name} holds vectors")
        side = size if isinstance(size, int) else size[0]
        x = resize(x, side)
    if labels and data.task == "regression":
        raise DataError(f"--labels: {name} has numbers as targets, no classes")
    return GenerationData(name, x, np.asarray(data.y) if labels else None)
