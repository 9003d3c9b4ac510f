"""Training of set encoders with their generators."""

from __future__ import annotations

from typing import Any

from jaxtyping import Int
from torch import Tensor

from holdfast.core.batching import Batches, BatchPlan
from holdfast.core.checks import check_number
from holdfast.core.random import spawn_seed
from holdfast.core.training import StepInfo, TrainResult, train
from holdfast.distribution.embedding.gde import GDE
from holdfast.distribution.embedding.mixing import SetMixer
from holdfast.distribution.embedding.sets import SetSource

__all__ = ["train_embedding"]


def train_embedding(
    model: GDE,
    source: SetSource,
    *,
    steps: int,
    set_size: int = 64,
    batch_size: int = 256,
    lr: float = 2e-4,
    mixer: SetMixer | None = None,
    labels: Int[Tensor, " sets"] | None = None,
    seed: int = 0,
    **options: Any,
) -> TrainResult:
    """Train ``model`` in place with Adam: each step draws ``set_size`` new points of every set of the batch.

    Args:
        model: what is trained; an encoder without parameters (a kernel mean) stays as it is.
        source: the sets, see :class:`SetTable`.
        steps, batch_size, lr, seed: see :func:`holdfast.core.training.train`.
        set_size: points drawn of every set.
        mixer: mixes the sets of a batch before they are encoded.
        labels: class of every set, -1 where unknown, for a model with a head; not together with a mixer.
        options: further options of :func:`holdfast.core.training.train`.

    Source: Fishman et al., "Generative distribution embeddings", NeurIPS 2025.

    Examples:
        >>> from holdfast.distribution.embedding.sets import SetTable
        >>> from holdfast.distribution.generators.ddpm import ConditionalDDPM
        >>> import torch
        >>> from holdfast.nn.sets import MeanEncoder
        >>> model = GDE(MeanEncoder(1), ConditionalDDPM(1, 1, steps=10, width=16))
        >>> sets = SetTable.of([torch.randn(30, 1) + i for i in range(8)])
        >>> train_embedding(model, sets, steps=3, set_size=16, batch_size=4, device="cpu").steps
        3
    """
    check_number("set_size", set_size, low=1, integer=True)
    if labels is not None and mixer is not None:
        raise ValueError("a mixed set has no label of its own: give labels or a mixer, not both")
    if labels is not None and labels.shape != (len(source),):
        raise ValueError(f"labels must have shape ({len(source)},), one for each set, got {tuple(labels.shape)}")
    if mixer is not None and mixer.k > min(batch_size, len(source)):
        raise ValueError(
            f"k = {mixer.k} sources cannot be taken from a batch of {min(batch_size, len(source))} sets; lower k"
        )

    def loss(module: GDE, rows: Tensor, info: StepInfo) -> Tensor:
        x = source.draw(rows, set_size, info.generator)
        # The last batch of an epoch may hold fewer sets than a mixture has sources; it is taken as it is.
        if mixer is not None and mixer.k <= len(x):
            x = mixer(x, info.generator)
        return module.loss(x, None if labels is None else labels[rows.cpu()].to(x.device), info.generator)

    return train(
        model,
        loss,  # type: ignore[arg-type]
        Batches(BatchPlan(len(source), batch_size, seed=spawn_seed(seed, "batches")), lambda rows: rows),
        steps=steps,
        optimizer="adam",
        lr=lr,
        seed=seed,
        **options,
    )
