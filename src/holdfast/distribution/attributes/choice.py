"""The weight of the divergence, chosen by samples at validation attributes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from holdfast.core.checks import check_choice, check_number, check_same_length
from holdfast.core.random import generator, spawn_seed
from holdfast.distribution.attributes.judge import attribute_accuracy
from holdfast.metrics import energy_distance

__all__ = ["BetaChoice", "BetaTrial", "choose_beta"]


class BetaTrial(NamedTuple):
    """A weight, the distance of its samples from real points, and how often they show what was asked for."""

    beta: float
    distance: float
    accuracy: float | None


class BetaChoice(NamedTuple):
    """The chosen weight and all that were tried."""

    beta: float
    trials: tuple[BetaTrial, ...]


def choose_beta(
    model_factory: Callable[[float], nn.Module],
    data: tuple[Float[Tensor, "n *shape"], Float[Tensor, "n attributes"]],
    grid: Sequence[float],
    metric: str | Callable[[Tensor, Tensor], float] = "energy",
    *,
    classifier: nn.Module | None = None,
    tolerance: float = 0.01,
    seed: int = 0,
) -> BetaChoice:
    """Return the weight whose samples lie nearest to real points, among those of nearly the best attribute accuracy.

    Args:
        model_factory: from a weight to a trained :class:`ConditionalVAE`.
        data: validation points and their attributes; one sample is drawn at every row.
        grid: weights to try.
        metric: "energy", or a function of samples and real points, both (n, d), smaller is better.
        classifier: judge of the attributes, from points to logits; without one every weight stands.
        tolerance: how far the accuracy may lie under the best.
        seed: of the samples; every weight has the same noise.

    Raises:
        ValueError: for an empty grid, negative weights, or data of different lengths.

    Examples:
        >>> import torch
        >>> from holdfast.distribution.generators.cvae import ConditionalVAE
        >>> make = lambda beta: ConditionalVAE.of_points(2, 1, latent=1, width=8, beta=beta)
        >>> choose_beta(make, (torch.randn(20, 2), torch.ones(20, 1)), [0.5, 1.0]).beta in (0.5, 1.0)
        True
    """
    x, c = data
    check_same_length(x=x, c=c)
    if not grid:
        raise ValueError("grid must name at least one weight, got none")
    for beta in grid:
        check_number("beta", beta, low=0)
    if not callable(metric):
        check_choice("metric", metric, ["energy"])
    distance: Any = metric if callable(metric) else energy_distance
    trials = []
    for beta in grid:
        model: Any = model_factory(beta)
        drawn = model.sample(c, 1, generator(spawn_seed(seed, "choice")))[:, 0]
        seen = None if classifier is None else attribute_accuracy(drawn, c, classifier).overall
        trials.append(BetaTrial(float(beta), float(distance(drawn.flatten(1), x.flatten(1))), seen))
    best = max((t.accuracy for t in trials if t.accuracy is not None), default=None)
    standing = [t for t in trials if best is None or (t.accuracy is not None and t.accuracy >= best - tolerance)]
    return BetaChoice(min(standing, key=lambda t: t.distance).beta, tuple(trials))
