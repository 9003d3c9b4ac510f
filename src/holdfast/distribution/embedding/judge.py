"""How far a fitted embedding can be trusted: samples against real points, and codes of parts of a set."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from holdfast.core.checks import check_number
from holdfast.core.random import spawn_seed
from holdfast.distribution.embedding.estimator import DistributionEmbedding
from holdfast.metrics import energy_distance

__all__ = ["fidelity", "parts_of"]


def parts_of(
    model: DistributionEmbedding, X: Any, group: Any, *, size: int, parts: int, seed: int = 0
) -> list[Float[np.ndarray, "parts code"]]:
    """Return, for every group, the codes of ``parts`` random parts of ``size`` points: how much its code varies.

    A group of fewer points is drawn from with repetition.
    """
    check_number("parts", parts, low=1, integer=True)
    rng = np.random.default_rng(spawn_seed(seed, "parts"))
    x, of = np.asarray(X), np.asarray(group)
    out = []
    for g in np.unique(of):
        rows = np.flatnonzero(of == g)
        drawn = [x[rng.choice(rows, size, replace=size > len(rows))] for _ in range(parts)]
        out.append(model.transform(np.stack(drawn)))
    return out


def fidelity(
    model: DistributionEmbedding, X: Any, group: Any, codes: Any, *, limit: int = 400, seed: int = 0
) -> list[dict[str, float]]:
    """Return, for every group, the energy distance of sampled points to its own, and that of its two halves.

    Both are in the model's coordinates, with as many points a side; the second is what chance leaves. Groups of fewer
    than four points have none.
    """
    rng = np.random.default_rng(spawn_seed(seed, "halves"))
    x, of = np.asarray(X, dtype=np.float32), np.asarray(group)
    out = []
    for i, g in enumerate(np.unique(of)):
        rows = rng.permutation(np.flatnonzero(of == g))[: 2 * limit]
        if len(rows) < 4:
            out.append({"sampled": float("nan"), "real": float("nan")})
            continue
        half = len(rows) // 2
        scaling = model.scaling_.cpu()
        a, b = (scaling(torch.from_numpy(x[r])) for r in (rows[:half], rows[half : 2 * half]))
        y = scaling(torch.from_numpy(model.resample(np.asarray(codes)[i : i + 1], half, random_state=seed)[0]).float())
        out.append({"sampled": energy_distance(y, a), "real": energy_distance(b, a)})
    return out
