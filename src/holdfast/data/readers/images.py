"""Image folders: ``environment/class/image.png``, decoded by a small pool of threads."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Shaped
from PIL import Image, ImageOps, UnidentifiedImageError

from holdfast.core.checks import check_choice, check_number
from holdfast.data.environments import Environments
from holdfast.data.errors import DataError
from holdfast.data.readers.columns import warn_absent
from holdfast.data.readers.frames import check_file

__all__ = ["IMAGE_SUFFIXES", "iter_images", "load_images", "read_images"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
_ORIENTATION = 0x0112
Mode = Literal["auto", "L", "RGB"]
Size = int | tuple[int, int] | None


def read_images(
    folder: str | Path,
    *,
    layout: Literal["environment/class", "class/environment", "class"] = "environment/class",
    size: Size = None,
    mode: Mode = "auto",
    workers: int | None = None,
) -> Environments:
    """Read a folder of images whose path says environment and class, as uint8 (n, C, H, W).

    Deeper folders are read as well; the path of every image below ``folder`` is kept as attribute ``file``.

    Args:
        folder: the folder.
        layout: what the first folders below it mean; ``"class"`` reads one environment.
        size: (height, width), or one number for both, to which images are resized (antialiased); ``None``
            expects them to have one size.
        mode: ``"L"`` grey, ``"RGB"`` colour, ``"auto"`` grey when every image is. Transparency is dropped.
        workers: threads; by default the number of cores, at most 8.

    Raises:
        DataError: for a folder that is laid out otherwise, images that differ in size, an unreadable image, or
            one environment or class only; each names the file and the fix.

    Examples:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> for name in ("day/cat", "day/dog", "night/cat", "night/dog"):
        ...     (root / name).mkdir(parents=True)
        ...     Image.new("L", (4, 4)).save(root / name / "0.png")
        >>> read_images(root)
        Environments(image (1, 4, 4), n=4, 2 environments: day 2, night 2; 2 classes; attributes file)
    """
    check_choice("layout", layout, ("environment/class", "class/environment", "class"))
    root = check_file(folder)
    if not root.is_dir():
        raise DataError(f"{root} is a file; expected a folder of images (read_manifest reads lists of files)")
    files = find_images(root)
    levels = layout.split("/")
    parts = [f.relative_to(root).parts for f in files]
    for f, p in zip(files, parts):
        if len(p) <= len(levels):
            fix = "; layout='class' reads one environment" if len(p) == 2 else ""
            raise DataError(f"{f} lies too high: expected {root.name}/{layout}/image{fix}")
    folders = {level: np.array([p[i] for p in parts]) for i, level in enumerate(levels)}
    for level, values in folders.items():
        if len(np.unique(values)) == 1:
            fix = "; layout='class' reads one environment" if level == "environment" else ""
            raise DataError(f"{root} holds one {level} only, {str(values[0])!r}; expected {layout}/image{fix}")
    x = load_images(files, size=size, mode=mode, workers=workers)
    names = np.array([f.relative_to(root).as_posix() for f in files])
    data = Environments.from_arrays(x, folders["class"], folders.get("environment"), {"file": names}, kind="image")
    return warn_absent(data, str(root))


def find_images(folder: Path) -> list[Path]:
    """Return every image file below a folder, sorted; hidden files and folders are passed over."""
    found = []
    for base, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(d for d in folders if not d.startswith("."))
        found += [Path(base, f) for f in sorted(files) if f.lower().endswith(IMAGE_SUFFIXES) and not f.startswith(".")]
    if not found:
        raise DataError(f"{folder} holds no images ({', '.join(IMAGE_SUFFIXES)})")
    return found


def load_images(
    files: Sequence[str | Path], *, size: Size = None, mode: Mode = "auto", workers: int | None = None
) -> Shaped[np.ndarray, "n channels height width"]:
    """Decode images into one uint8 array (n, C, H, W); see :func:`read_images` for the arguments.

    Raises:
        DataError: for no file, an unreadable one, or sizes that differ.
    """
    if not files:
        raise DataError("there are no image files to read")
    shape = _as_size(size)
    check_choice("mode", mode, ("auto", "L", "RGB"))
    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
        if shape is None or mode == "auto":
            heads = list(pool.map(_head, files))
            mode = mode if mode != "auto" else ("L" if all(grey for _, grey in heads) else "RGB")
            if shape is None:
                shape = heads[0][0]
                for file, (other, _) in zip(files, heads):
                    if other != shape:
                        raise DataError(
                            f"{file} is {other[0]}x{other[1]} (height x width) but {files[0]} is "
                            f"{shape[0]}x{shape[1]}; "
                            f"pass size=({min(shape[0], other[0])}, {min(shape[1], other[1])}) to resize all"
                        )
        channels = 1 if mode == "L" else 3
        out = np.empty((len(files), channels, *shape), np.uint8)

        def fill(i: int) -> None:
            out[i] = _decode(files[i], mode, shape).reshape(*shape, channels).transpose(2, 0, 1)

        for _ in pool.map(fill, range(len(files))):
            pass
    return out


def iter_images(
    source: str | Path | Sequence[str | Path],
    *,
    size: Size,
    mode: Literal["L", "RGB"],
    chunk: int = 512,
    workers: int | None = None,
) -> Iterator[tuple[list[Path], Shaped[np.ndarray, "n channels height width"]]]:
    """Yield ``(files, images)`` of a folder of any layout, an image, or a list of them, a chunk at a time.

    Examples:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> Image.new("RGB", (4, 6)).save(root / "a.png")
        >>> [(f[0].name, x.shape) for f, x in iter_images(root, size=None, mode="RGB")]
        [('a.png', (1, 3, 6, 4))]
    """
    check_number("chunk", chunk, low=1, integer=True)
    if isinstance(source, (str, Path)):
        path = check_file(source)
        files = find_images(path) if path.is_dir() else [path]
    else:
        files = [Path(f) for f in source]
    for start in range(0, len(files), chunk):
        part = files[start : start + chunk]
        yield part, load_images(part, size=size, mode=mode, workers=workers)


def _as_size(size: Size) -> tuple[int, int] | None:
    if size is None:
        return None
    pair = (size, size) if isinstance(size, (int, np.integer)) else tuple(size)
    if len(pair) != 2:
        raise DataError(f"size must be a number or (height, width), got {size!r}")
    for v in pair:
        check_number("size", v, low=1, integer=True)
    return int(pair[0]), int(pair[1])


def _head(file: str | Path) -> tuple[tuple[int, int], bool]:
    """Size (height, width) as seen upright, and whether the image is grey, from the header alone."""
    try:
        with Image.open(file) as image:
            width, height = image.size
            turned = image.getexif().get(_ORIENTATION, 1) >= 5
            grey = image.mode in ("1", "L", "LA", "F") or image.mode.startswith("I")
            return ((width, height) if turned else (height, width)), grey
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as e:
        raise DataError(_unreadable(file, e)) from e


def _unreadable(file: str | Path, error: Exception) -> str:
    why = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"  # that one only says the name again
    return f"{file} is no readable image{why}; repair or remove it"


def _decode(file: str | Path, mode: str, shape: tuple[int, int]) -> np.ndarray:
    try:
        with Image.open(file) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):
                upright = Image.fromarray((np.asarray(upright).astype(np.uint32) >> 8).astype(np.uint8))
            flat = upright.convert(mode)
            if (flat.height, flat.width) != shape:
                flat = flat.resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
            return np.asarray(flat)
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as e:
        raise DataError(_unreadable(file, e)) from e
