"""Loaders of image data sets."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Shaped
from PIL import Image

from holdfast.core.arrays import as_tensor
from holdfast.core.checks import check_choice, check_number
from holdfast.data.environments import Environments
from holdfast.data.named.files import Get

__all__ = ["cifar10", "cifar_n", "coil20", "digits", "fashion_mnist", "mnist", "omniglot", "pacs", "pneumonia", "usps"]

Part = Literal["train", "test", "all"]
CIFAR_CLASSES = np.array(["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"])
FASHION_CLASSES = np.array(
    ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
)


def read_idx(path: Path) -> np.ndarray:
    """Return the array of an IDX file, compressed or not."""
    raw = path.read_bytes()
    raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    rank = raw[3]
    shape = np.frombuffer(raw, ">u4", rank, 4).astype(np.int64)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)


def resize(x: Shaped[np.ndarray, "n channels height width"], size: int) -> Shaped[np.ndarray, "n channels size size"]:
    """Return uint8 images resized with antialiased bilinear interpolation, a block at a time."""
    if x.shape[2:] == (size, size):
        return x
    out = np.empty((len(x), x.shape[1], size, size), np.uint8)
    for i in range(0, len(x), 4096):
        block = as_tensor(x[i : i + 4096]).float()
        small = torch.nn.functional.interpolate(block, size=(size, size), mode="bilinear", antialias=True)
        out[i : i + 4096] = small.round().clamp(0, 255).to(torch.uint8).numpy()
    return out


def _parts(
    part: str, read: Callable[[str], tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    check_choice("part", part, ("train", "test", "all"))
    chosen = ["train", "test"] if part == "all" else [part]
    pieces = [read(p) for p in chosen]
    names = np.repeat(chosen, [len(y) for _, y in pieces])
    if len(pieces) == 1:
        return *pieces[0], names
    return np.concatenate([x for x, _ in pieces]), np.concatenate([y for _, y in pieces]), names


def _idx(get: Get, part: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    def read(p: str) -> tuple[np.ndarray, np.ndarray]:
        stem = "train" if p == "train" else "t10k"
        return read_idx(get(f"{stem}-images-idx3-ubyte.gz")), read_idx(get(f"{stem}-labels-idx1-ubyte.gz"))

    return _parts(part, read)


def fashion_mnist(get: Get, *, part: Part = "train") -> Environments:
    """Clothing articles; ``part`` "train" (60,000), "test" (10,000) or "all", kept as attribute ``part``."""
    x, y, parts = _idx(get, part)
    return Environments.from_arrays(x[:, None], FASHION_CLASSES[y], attributes={"part": parts})


def mnist(get: Get, *, part: Part = "train") -> Environments:
    """Handwritten digits; ``part`` "train" (60,000), "test" (10,000) or "all", kept as attribute ``part``."""
    x, y, parts = _idx(get, part)
    return Environments.from_arrays(x[:, None], y.astype(np.int64), attributes={"part": parts})


def _usps(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    with np.load(path) as a:

        def read(p: str) -> tuple[np.ndarray, np.ndarray]:
            grey = np.rint((a[f"{p}_x"].astype(np.float32) + 1000) * (255 / 2000)).astype(np.uint8)
            return grey[:, None], a[f"{p}_y"].astype(np.int64)

        return _parts("all", read)


def usps(get: Get) -> Environments:
    """Digits from envelopes; the two parts are environments, since the test part is harder."""
    x, y, parts = _usps(get("usps.npz"))
    return Environments.from_arrays(x, y, parts, names=("train", "test"))


def digits(get: Get, *, size: int = 16, mnist_part: Part = "test") -> Environments:
    """MNIST and USPS as two environments at one size.

    ``mnist_part`` "test" (10,000) is near the 9,298 of USPS in number; "train" and "all" are larger.
    """
    check_number("size", size, low=4, integer=True)
    x, y, _ = _idx(get, mnist_part)
    u, v, _ = _usps(get("usps.npz"))
    both = np.concatenate([resize(x[:, None], size), resize(u, size)])
    where = np.repeat(["mnist", "usps"], [len(x), len(u)])
    return Environments.from_arrays(both, np.concatenate([y.astype(np.int64), v]), where)


def pacs(get: Get, *, size: Literal[32, 64] = 32) -> Environments:
    """Four visual domains; ``size`` 32 is the whole set (9,991), 64 a balanced subset (1,120)."""
    check_choice("size", size, (32, 64))
    with np.load(get("pacs_32.npz" if size == 32 else "pacs_64_subset.npz")) as a:
        names = tuple(a["domain_names"].tolist())
        return Environments.from_arrays(a["images"], a["class_names"][a["label"]], a["domain"], names=names)


def _decode_streams(path: Path, rows: slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
    with np.load(path) as a:
        raw, cuts, label = a["jpeg"].tobytes(), a["offsets"], a["label"][rows].astype(np.int64)
    index = np.arange(len(cuts) - 1)[rows]
    out = np.empty((len(index), 32, 32, 3), np.uint8)

    def fill(k: int) -> None:
        i = index[k]
        with Image.open(io.BytesIO(raw[cuts[i] : cuts[i + 1]])) as image:
            out[k] = np.asarray(image)

    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(fill, range(len(index)), chunksize=512):
            pass
    return out, label


def cifar10(get: Get, *, part: Part = "train", subset: bool = True) -> Environments:
    """Photographs of ten classes; ``subset`` reads 10,000 + 2,000 images, else all 50,000 + 10,000.

    The pixels come from JPEG copies (quality 75). Training images are in the official order.
    """
    if subset:
        with np.load(get("cifar10_train10k_test2k.npz")) as a:
            x, y, parts = _parts(part, lambda p: (a[f"{p}_x"], a[f"{p}_y"]))
    else:
        x, y, parts = _parts(part, lambda p: _decode_streams(get(f"cifar10_{p}_jpeg.npz")))
    return Environments.from_arrays(x, CIFAR_CLASSES[y], attributes={"part": parts})


def cifar_n(
    get: Get,
    *,
    noise: Literal["aggre", "worse", "random1", "random2", "random3", "clean"] = "worse",
    subset: bool = True,
) -> Environments:
    """CIFAR-10 training images with the labels that people gave; the true label is attribute ``clean``.

    ``noise``: "aggre" (9 % wrong), "random1" to "random3" (17 to 18 %), "worse" (40 %); ``subset`` reads the
    first 10,000 images.
    """
    check_choice("noise", noise, ("aggre", "worse", "random1", "random2", "random3", "clean"))
    key = noise.replace("random", "random_label") if noise.startswith("random") else f"{noise}_label"
    if subset:
        with np.load(get("cifar10_train10k_test2k.npz")) as a:
            x = a["train_x"]
    else:
        x, _ = _decode_streams(get("cifar10_train_jpeg.npz"))
    with np.load(get("cifar10n.npz")) as a:
        y, clean = a[key][: len(x)], a["clean_label"][: len(x)]
    return Environments.from_arrays(x, CIFAR_CLASSES[y], attributes={"clean": CIFAR_CLASSES[clean]})


def omniglot(
    get: Get,
    *,
    environment: Literal["alphabet", "drawer"] = "alphabet",
    part: Literal["background", "evaluation", "all"] = "all",
    size: int = 28,
) -> Environments:
    """Handwritten characters of 50 alphabets, by 20 people each.

    ``environment`` "alphabet" (new classes in each) or "drawer" (the same classes in each); ``part`` selects the
    30 background or 20 evaluation alphabets; ``size`` up to 105.
    """
    check_choice("environment", environment, ("alphabet", "drawer"))
    check_choice("part", part, ("background", "evaluation", "all"))
    check_number("size", size, low=8, high=105, integer=True)
    with np.load(get("omniglot_105.npz")) as a:
        keep = np.ones(len(a["alphabet"]), bool) if part == "all" else a["is_background"] == (part == "background")
        packed = a["images_packed"][keep]
        alphabet = a["alphabet_names"][a["alphabet"][keep]]
        y, drawer = a["character_names"][a["character"][keep]], a["drawer"][keep].astype(np.int64)
    x = np.empty((len(packed), 1, size, size), np.uint8)
    for i in range(0, len(packed), 4096):
        ink = np.unpackbits(packed[i : i + 4096], axis=2)[:, None, :, :105] * np.uint8(255)
        x[i : i + 4096] = resize(ink, size)
    where = alphabet if environment == "alphabet" else drawer
    return Environments.from_arrays(x, y, where, {"alphabet": alphabet, "drawer": drawer})


def coil20(get: Get, *, ranges: int = 4) -> Environments:
    """Twenty objects on a turntable; ``ranges`` of poses (2 to 72, dividing 72) are the environments."""
    check_choice("ranges", ranges, [k for k in range(2, 73) if 72 % k == 0])
    with np.load(get("coil20_32.npz")) as a:
        pose, width = a["pose_order"].astype(np.int64), 72 // ranges
        names = tuple(f"{5 * width * i} to {5 * (width * (i + 1) - 1)} degrees" for i in range(ranges))
        y, angle = a["object"].astype(np.int64), 5 * pose
        return Environments.from_arrays(a["images"][:, None], y, pose // width, {"angle": angle}, names=names)


def pneumonia(get: Get) -> Environments:
    """Chest X-rays; the official parts are environments, since the share of pneumonia differs (74 % to 62 %)."""
    parts = ("train", "val", "test")
    with np.load(get("pneumoniamnist.npz")) as a:
        x = np.concatenate([a[f"{p}_images"] for p in parts])[:, None]
        y = np.concatenate([a[f"{p}_labels"][:, 0] for p in parts])
        where = np.repeat(np.arange(3), [len(a[f"{p}_labels"]) for p in parts])
    return Environments.from_arrays(x, np.array(["normal", "pneumonia"])[y], where, names=parts)
