"""Omniglot cut into tasks of new characters, unseen alphabets for retrieval, and characters for external models."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from holdfast.core.random import spawn_seed
from holdfast.data import load_named

__all__ = ["CharacterTasks", "character_tasks", "random_affine"]

Labelled = tuple[Tensor, Tensor]
_TASK_ALPHABETS = ("Balinese", "Early_Aramaic", "Greek", "Korean", "Latin")


@dataclass(frozen=True)
class CharacterTasks:
    """Images (n, 1, 28, 28) in [0, 1] with labels, each set with classes of its own."""

    tasks: list[Labelled]
    gallery: Labelled
    queries: Labelled
    seen_gallery: Labelled
    seen_queries: Labelled
    external: list[Labelled]


def character_tasks(
    seed: int, n_tasks: int = 8, external: tuple[int, ...] = (200, 400, 800), n_unseen_alphabets: int = 5
) -> CharacterTasks:
    """Cut the data: 14 of 20 drawers of each task character are learnt, 3 and 3 are its gallery and queries.

    Tasks come from five background alphabets (136 characters), external models learn characters of the other 25,
    retrieval is on evaluation alphabets.

    Raises:
        OSError, ValueError: when the data set can neither be found nor fetched.
    """
    rng = np.random.default_rng(spawn_seed(seed, "characters"))
    background, evaluation = (load_named("omniglot", part=part) for part in ("background", "evaluation"))

    def cut(env, names: np.ndarray, drawers: range) -> Labelled:
        code = {name: i for i, name in enumerate(names)}
        keep = np.isin(env.y, names) & np.isin(env.attributes["drawer"], list(drawers))
        y = np.array([code[name] for name in env.y[keep]])
        return torch.from_numpy(np.asarray(env.x)[keep]).float() / 255, torch.from_numpy(y)

    alphabet = np.array([str(name).split("/")[0] for name in background.y])
    own = rng.permutation(np.unique(background.y[np.isin(alphabet, _TASK_ALPHABETS)]))
    other = rng.permutation(np.unique(background.y[~np.isin(alphabet, _TASK_ALPHABETS)]))
    unseen_alphabet = np.array([str(name).split("/")[0] for name in evaluation.y])
    chosen = rng.permutation(np.unique(unseen_alphabet))[:n_unseen_alphabets]
    unseen = np.unique(evaluation.y[np.isin(unseen_alphabet, chosen)])
    x, y = cut(background, own, range(1, 15))
    each = len(own) // n_tasks
    parts = [(y >= t * each) & (y < (t + 1) * each) for t in range(n_tasks)]
    outside = [cut(background, other[:c], range(1, 21)) for c in external]
    return CharacterTasks(
        tasks=[(x[part], y[part]) for part in parts],
        gallery=cut(evaluation, unseen, range(1, 11)),
        queries=cut(evaluation, unseen, range(11, 21)),
        seen_gallery=cut(background, own[: n_tasks * each], range(15, 18)),
        seen_queries=cut(background, own[: n_tasks * each], range(18, 21)),
        external=outside,
    )


def random_affine(x: Float[Tensor, "n 1 h w"], rng: torch.Generator) -> Float[Tensor, "n 1 h w"]:
    """Rotate by up to 15 degrees, scale by up to 15 %, shift by up to 10 % of the side, each image by itself.

    Examples:
        >>> random_affine(torch.zeros(2, 1, 28, 28), torch.Generator().manual_seed(0)).shape
        torch.Size([2, 1, 28, 28])
    """
    u = 2 * torch.rand(len(x), 4, generator=rng, device=x.device) - 1
    angle, factor = u[:, 0] * math.pi / 12, 1 + 0.15 * u[:, 1]
    cos, sin = angle.cos() * factor, angle.sin() * factor
    matrix = torch.stack([torch.stack([cos, -sin, 0.2 * u[:, 2]], 1), torch.stack([sin, cos, 0.2 * u[:, 3]], 1)], 1)
    grid = F.affine_grid(matrix, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)
