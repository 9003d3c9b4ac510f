"""Which block and time of a trained model to read features from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from holdfast.diffusion.denoiser import Denoiser
from holdfast.diffusion.feature_grid import sweep_features
from holdfast.diffusion.features import DiffusionFeatures
from holdfast.diffusion.paths import Path

__all__ = [
    "NOISE_RATIOS",
    "FeatureChoice",
    "choose_features",
    "default_features",
    "features_at",
    "no_class",
    "places",
    "time_of_noise",
]

NOISE_RATIOS = (0.03, 0.1, 0.3, 0.6, 1.0)
"""Noise levels tried, as sigma over alpha."""

_DEFAULT_RATIO = 0.1
_DEFAULT_DEPTH = 0.65


@dataclass(frozen=True)
class FeatureChoice:
    """Where features are read, and what the choice rests on.

    Attributes:
        time, block: in the units of the path, counted from 1.
        times, blocks: those compared; empty where nothing was.
        accuracy: of a linear probe on held-out samples, one row for every block, one column for every time.
    """

    time: float
    block: int
    times: tuple[float, ...] = ()
    blocks: tuple[int, ...] = ()
    accuracy: tuple[tuple[float, ...], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {
            "time": self.time,
            "block": self.block,
            "times": list(self.times),
            "blocks": list(self.blocks),
            "accuracy": [list(row) for row in self.accuracy],
        }

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> FeatureChoice:
        """Rebuild from :meth:`to_dict`."""
        return cls(d["time"], d["block"], tuple(d["times"]), tuple(d["blocks"]), tuple(map(tuple, d["accuracy"])))


def time_of_noise(path: Path, ratio: float) -> float:
    r"""Return the time at which :math:`\sigma_t / \alpha_t` is nearest to ``ratio``; a whole one on a discrete path.

    Examples:
        >>> from holdfast.diffusion.paths import LinearPath
        >>> round(time_of_noise(LinearPath(), 1.0), 3)
        0.5
    """
    n = int(path.t_max - path.t_min) + 1 if path.discrete else 2001
    t = torch.linspace(path.t_min, path.t_max, n, dtype=torch.float64)
    c = path.coefficients(t)
    ratios = torch.log(c.sigma / c.alpha)
    return float(t[(ratios - torch.log(torch.tensor(ratio, dtype=torch.float64))).abs().nan_to_num(torch.inf).argmin()])


def features_at(model: Denoiser, time: float, block: int, pool: int, *, image: bool) -> DiffusionFeatures:
    """Return the features of a model at a time and block, from noise that all samples share.

    A feature then depends on the sample alone, not on its place among others.
    """
    bound = 1.0 if image else None
    return DiffusionFeatures(model, time, block, pool=places(model, pool), noise="shared", bound=bound)


def default_features(model: Denoiser, time: float | None = None, block: int | None = None) -> FeatureChoice:
    r"""Return a place that is good on average: about two thirds of the way through, at little noise.

    The block is :math:`0.65\,D`, where published sweeps of U-Nets and transformers peak, the time that of
    :math:`\sigma / \alpha = 0.1`. A given time or block is kept.

    Source: Mukhopadhyay et al., "Diffusion Models Beat GANs on Image Classification", 2023, section 4.2.
    """
    depth: int = model.network.depth  # pyright: ignore[reportAssignmentType]
    return FeatureChoice(
        time_of_noise(model.path, _DEFAULT_RATIO) if time is None else float(time),
        max(1, round(_DEFAULT_DEPTH * depth)) if block is None else int(block),
    )


def choose_features(
    model: Denoiser,
    x: Float[Tensor, "n *shape"],
    y: Int[Tensor, " n"],
    held_x: Float[Tensor, "m *shape"],
    held_y: Int[Tensor, " m"],
    time: float | None = None,
    block: int | None = None,
    pool: int = 2,
) -> FeatureChoice:
    """Compare blocks and times by a linear probe on held-out samples, and return the best place.

    At most eight blocks are tried, spread evenly, at the times of :data:`NOISE_RATIOS`; a given time or block is
    kept. A class-conditional network is asked without a class, so no label can leak.

    Source: Mukhopadhyay et al., "Diffusion Models Beat GANs on Image Classification", 2023, section 4.2.
    """
    depth: int = model.network.depth  # pyright: ignore[reportAssignmentType]
    spread = np.unique(np.linspace(1, depth, min(depth, 8)).round().astype(int)).tolist()
    blocks = tuple(spread) if block is None else (int(block),)
    found = dict.fromkeys(time_of_noise(model.path, r) for r in NOISE_RATIOS)
    times = tuple(found) if time is None else (float(time),)
    if not set(held_y.tolist()) <= set(y.tolist()):  # a class so rare that the probe would not know it
        return default_features(model, time, block)
    grid = sweep_features(
        model,
        x,
        y,
        times=times,
        blocks=blocks,
        pool=places(model, pool),
        C=0.1,
        validation=(held_x, held_y),
        condition=no_class(model),
        noise="shared",
        bound=1.0 if x.ndim == 4 else None,
    )
    best, table = grid.best(), grid.table()
    accuracy = tuple(tuple(float(v) for v in table.loc[b, list(times)]) for b in blocks)
    return FeatureChoice(best.t, best.block, times, blocks, accuracy)


def no_class(model: Denoiser) -> int | None:
    """Return the label that stands for none; ``None`` for an unconditional network."""
    return getattr(model.network, "null_class", None) if getattr(model.network, "num_classes", 0) else None


def places(model: Denoiser, pool: int) -> int:
    """Return the side of pooled maps: ``pool``, or that of the smallest map where it is smaller."""
    grid = getattr(model.network, "grid", None)
    if grid is not None:
        return min(pool, *grid)
    table = getattr(model.network, "blocks", None)
    return min(pool, *(b.resolution for b in table)) if isinstance(table, list) else 1
