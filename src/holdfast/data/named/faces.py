"""Loaders of face data sets."""

from __future__ import annotations

import numpy as np

from holdfast.core.checks import check_choice
from holdfast.data.environments import Environments
from holdfast.data.named.files import Get

__all__ = ["extended_yale_b", "orl_faces", "smiles_lfw", "yale_faces"]


def extended_yale_b(get: Get, *, flagged: bool = False) -> Environments:
    """38 people under 64 lights; the five subsets by angle of light are environments.

    ``flagged`` keeps the 18 images that the authors marked as damaged. Attributes: ``azimuth``, ``elevation`` and
    ``light_angle`` in degrees.
    """
    with np.load(get("extended_yale_b_48x42.npz")) as a:
        keep = np.ones(len(a["subject"]), bool) if flagged else ~a["flagged_bad"]
        angles = {k: a[k][keep] for k in ("azimuth", "elevation", "light_angle")}
        names = ("light to 12", "light to 25", "light to 52", "light to 77", "light beyond 77")
        where = a["light_subset"][keep].astype(np.int64) - 1
        y = a["subject"][keep].astype(np.int64)
        return Environments.from_arrays(a["images"][keep][:, None], y, where, angles, names=names)


def yale_faces(get: Get) -> Environments:
    """15 people under 11 conditions (light, glasses, expression), which are the environments."""
    with np.load(get("yale_faces_81x107.npz")) as a:
        where = a["condition_names"][a["condition"]]
        return Environments.from_arrays(a["images"][:, None], a["subject"].astype(np.int64), where)


def orl_faces(get: Get, *, blocks: int = 1) -> Environments:
    """40 people, ten images each; ``blocks`` (1, 2, 5 or 10) of consecutive images are the environments."""
    check_choice("blocks", blocks, (1, 2, 5, 10))
    with np.load(get("orl_faces_56x46.npz")) as a:
        width, number = 10 // blocks, np.arange(len(a["subject"])) % 10
        names = tuple(f"images {i * width + 1} to {(i + 1) * width}" for i in range(blocks))
        y = a["subject"].astype(np.int64)
        where = None if blocks == 1 else number // width
        return Environments.from_arrays(a["images"][:, None], y, where, names=None if blocks == 1 else names)


def smiles_lfw(get: Get) -> Environments:
    """4,000 faces, half of them smiling; the label is the smile."""
    with np.load(get("smiles_32.npz")) as a:
        return Environments.from_arrays(a["images"][:, None], a["smiling"].astype(np.int64))
