"""Training on simulated problems, every batch afresh."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from holdfast.core.checks import check_number
from holdfast.core.training import StepInfo, TrainResult, train
from holdfast.distribution.transformer.model import DistributionTransformer
from holdfast.distribution.transformer.problem import InferenceProblem, Simulated

__all__ = ["amortised_loss", "default_lr", "fit_amortised"]


class _Endless:
    """Batches that hold nothing: what a step sees is simulated from the step's own random state."""

    def __len__(self) -> int:
        return 100

    def epoch(self, e: int, start: int = 0) -> Iterator[int]:
        return iter(range(start, len(self)))


def default_lr(n_parameters: int) -> float:
    """Return the learning rate 0.003239 - 0.0001395 log(n) of a network of n parameters.

    Examples:
        >>> round(default_lr(100_000), 6)
        0.001633
    """
    return 0.003239 - 0.0001395 * math.log(n_parameters)


def amortised_loss(model: DistributionTransformer, batch: Simulated, *, prior_loss: bool = True) -> dict[str, Tensor]:
    r"""Return :math:`-E \log q(f(x) \mid z, \phi)`, and with it :math:`-E \log q(f(x) \mid \phi)` as ``"prior"``.

    The first is the mean of KL(p || q) up to a constant; the second makes input and output tokens one code.

    Raises:
        FloatingPointError: where a row is not finite, with the number of rows; none is left out of the mean.
    """
    before, after = model(batch.phi, batch.obs, batch.mask)
    u = model.to_real(batch.x)
    posterior = -after.log_prob(u)
    bad = int((~torch.isfinite(posterior)).sum())
    if bad:
        raise FloatingPointError(f"the loss is not finite in {bad} of {len(posterior)} problems of a batch")
    post = posterior.mean()
    if not prior_loss:
        return {"loss": post, "posterior": post.detach()}
    prior = -before.log_prob(u).mean()
    return {"loss": post + prior, "posterior": post.detach(), "prior": prior.detach()}


def fit_amortised(
    model: DistributionTransformer,
    problem: InferenceProblem,
    *,
    steps: int,
    batch_size: int = 256,
    lr: float | None = None,
    warmup: float = 0.1,
    prior_loss: bool = True,
    seed: int = 0,
    **options: Any,
) -> TrainResult:
    """Train ``model`` in place with AdamW, linear warm-up and a cosine, on problems that are never seen twice.

    Args:
        model, problem: what is trained, and on what.
        steps, batch_size, warmup, seed: as in :func:`holdfast.core.training.train`.
        lr: ``None`` is :func:`default_lr`.
        prior_loss: train the decoding of the prior's tokens too.
        options: further options of :func:`holdfast.core.training.train`.

    Source: Whittle et al., "Distribution transformers", ICML 2026.

    Examples:
        >>> from holdfast.distribution.transformer import LinearObservation, MixtureMetaPrior
        >>> problem = InferenceProblem(MixtureMetaPrior(3), {"z": LinearObservation(torch.eye(1), torch.eye(1))})
        >>> model = DistributionTransformer(3, 1, {"z": 1}, width=16, heads=2, layers=1, hidden=32)
        >>> fit_amortised(model, problem, steps=3, device="cpu").steps
        3
    """
    check_number("batch_size", batch_size, low=1, integer=True)

    def loss(module: Any, batch: int, info: StepInfo) -> dict[str, Tensor]:
        return amortised_loss(module, problem.sample(batch_size, info.generator), prior_loss=prior_loss)

    return train(
        model,
        loss,
        _Endless(),
        steps=steps,
        lr=default_lr(sum(p.numel() for p in model.parameters())) if lr is None else lr,
        schedule="cosine",
        warmup=warmup,
        seed=seed,
        **options,
    )
