"""Training and judging of subset models."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.core.batching import Batches, BatchPlan
from holdfast.core.random import generator, spawn_seed
from holdfast.core.training import StepInfo, TrainResult, train
from holdfast.distribution.subsets.dataset import SubsetBatch, SubsetDataset, sample_negatives
from holdfast.distribution.subsets.jaccard import jaccard
from holdfast.distribution.subsets.model import SubsetModel
from holdfast.distribution.subsets.size_rules import SizeRule

__all__ = ["subset_jaccard", "train_subsets"]


def train_subsets(
    model: SubsetModel,
    data: SubsetDataset,
    *,
    steps: int,
    batch_size: int = 128,
    lr: float = 1e-3,
    weight_decay: float = 1e-5,
    clip_norm: float | None = 10.0,
    validation: SubsetDataset | Callable[[SubsetModel], float] | None = None,
    n_eval: int = 1,
    seed: int = 0,
    **options: Any,
) -> TrainResult:
    """Train ``model`` in place with Adam on the best subsets of ``data``.

    Args:
        model: what is trained.
        data: ground sets with their best subsets.
        steps, batch_size, lr, weight_decay, clip_norm, seed: see :func:`holdfast.core.training.train`.
        validation: sets whose mean Jaccard index, at the size of the best subset, is the score of the model; or a
            function that gives the score.
        n_eval: draws of the marginals behind it.
        options: further options of :func:`holdfast.core.training.train`.

    Source: Ou et al. (EquiVSet), NeurIPS 2022, for the setting.

    Examples:
        >>> from torch import nn
        >>> from holdfast.distribution.subsets import DeepSetScorer, make_relative_utility_sets
        >>> data = make_relative_utility_sets(200, seed=0)
        >>> model = DeepSetScorer(nn.Linear(2, 16), 16, hidden=32)
        >>> train_subsets(model, data, steps=200, lr=1e-2, device="cpu").steps
        200
        >>> float(subset_jaccard(model, data).mean()) > 0.6
        True
    """

    def loss(module: SubsetModel, batch: SubsetBatch, info: StepInfo) -> Tensor:
        V, S, valid = batch
        counted = sample_negatives(S, valid, data.negatives, info.generator)
        return module.loss(V, S, valid, counted=counted, generator=info.generator)

    def mean_jaccard(module: SubsetModel, held: SubsetDataset) -> float:
        return float(subset_jaccard(module, held, n_eval=n_eval, seed=spawn_seed(seed, "validation")).mean())

    validate = partial(mean_jaccard, held=validation) if isinstance(validation, SubsetDataset) else validation
    return train(
        model,
        loss,  # type: ignore[arg-type]
        Batches(BatchPlan(len(data), batch_size, seed=spawn_seed(seed, "batches")), data.__getitem__),
        steps=steps,
        optimizer="adam",
        lr=lr,
        weight_decay=weight_decay,
        clip_norm=clip_norm,
        validate=validate,  # type: ignore[arg-type]
        seed=seed,
        **options,
    )


@torch.no_grad()
def subset_jaccard(
    model: SubsetModel,
    data: SubsetDataset,
    rule: SizeRule | None = "topk",
    *,
    n_eval: int = 1,
    batch_size: int = 256,
    seed: int = 0,
) -> Float[Tensor, " sets"]:
    """Return the Jaccard index of every predicted subset with the best one.

    ``"topk"`` tells the model the true size, as published evaluations do; the other rules do not.

    Examples:
        >>> from holdfast.distribution.subsets import RandomSubset, make_relative_utility_sets
        >>> data = make_relative_utility_sets(400, seed=0)
        >>> 0.1 < float(subset_jaccard(RandomSubset(), data).mean()) < 0.3
        True
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    rng = generator(seed, device)
    model.eval()
    found = []
    for start in range(0, len(data), batch_size):
        V, S, valid = (t.to(device) for t in data[slice(start, start + batch_size)])
        size = S.sum(1) if rule == "topk" else None
        found.append(jaccard(model.predict(V, size, rule, valid, n_eval=n_eval, generator=rng), S, valid).cpu())
    return torch.cat(found)
