"""Training of generators that are told attributes."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from holdfast.core.batching import Batches, BatchPlan
from holdfast.core.checks import check_number, check_same_length
from holdfast.core.random import spawn_seed
from holdfast.core.training import StepInfo, TrainResult, train
from holdfast.distribution.generators.cvae import ConditionalVAE

__all__ = ["train_attributes"]


def train_attributes(
    model: nn.Module,
    x: Float[Tensor, "n *shape"],
    c: Float[Tensor, "n attributes"],
    *,
    steps: int,
    mask: Bool[Tensor, "n attributes"] | None = None,
    hide: float = 0.0,
    batch_size: int = 128,
    lr: float = 1e-3,
    schedule: str = "cosine",
    seed: int = 0,
    **options: Any,
) -> TrainResult:
    """Train ``model`` in place with Adam on points and their attributes.

    Args:
        model: with ``loss(x, c, generator, mask)``: a :class:`ConditionalVAE` or one of its baselines.
        x, c: points and attributes.
        mask: which attributes are known, all by default.
        hide: probability with which a known attribute is hidden at a step, so that any subset can be asked for.
        steps, batch_size, lr, schedule, seed: see :func:`holdfast.core.training.train`.
        options: further options of :func:`holdfast.core.training.train`.

    Raises:
        ValueError: for attributes that are all constant, which leaves nothing to condition on, different lengths, or a
            share of hidden attributes outside [0, 1).

    Examples:
        >>> model = ConditionalVAE.of_points(2, 3, latent=1, width=8)
        >>> c = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)).round()
        >>> train_attributes(model, torch.zeros(50, 2), c, steps=3, device="cpu").steps
        3
    """
    check_same_length(x=x, c=c, mask=mask)
    check_number("hide", hide, low=0, high=1, open_high=True)
    known = torch.ones_like(c, dtype=torch.bool) if mask is None else mask
    refuse_constant(c, known)
    masked = hide > 0 or not bool(known.all())

    def loss(module: Any, batch: tuple[Tensor, Tensor, Tensor], info: StepInfo) -> Tensor | dict[str, Tensor]:
        points, given, seen = batch
        if hide:
            u = torch.rand(seen.shape, generator=info.generator, device=seen.device)
            seen = seen & (u >= hide)
        told = seen if masked else None
        if isinstance(module, ConditionalVAE):
            return module.objective(points, given, info.generator, told)
        return module.loss(points, given, info.generator, told)

    batches = Batches(
        BatchPlan(len(x), batch_size, seed=spawn_seed(seed, "batches")), lambda rows: (x[rows], c[rows], known[rows])
    )
    return train(
        model, loss, batches, steps=steps, optimizer="adam", lr=lr, schedule=schedule, seed=seed, **options
    )  # fmt: skip


def refuse_constant(c: Tensor, known: Tensor) -> None:
    """Raise ``ValueError`` where no attribute takes two values."""
    for k in range(c.shape[1]):
        values = c[known[:, k], k]
        if len(values) and bool((values != values[0]).any()):
            return
    raise ValueError("all attributes are constant: there is nothing to condition on")
