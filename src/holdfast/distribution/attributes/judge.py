"""A classifier of attributes, and what it says of samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.core.batching import Batches, BatchPlan
from holdfast.core.checks import check_number, check_same_length
from holdfast.core.random import spawn_seed
from holdfast.core.training import StepInfo, train
from holdfast.metrics import frechet_distance
from holdfast.nn.coders import ConvEncoder
from holdfast.nn.feed_forward import feed_forward

__all__ = ["AttributeAccuracy", "AttributeJudge", "attribute_accuracy", "frechet_feature_distance"]

_ROWS = 2048


class AttributeAccuracy(NamedTuple):
    """How often samples show the attributes that were asked for.

    Attributes:
        overall: mean over attributes.
        each: of every attribute, (attributes,).
        confidence: mean probability of the judge's own decision; low where it was fooled by blur.
    """

    overall: float
    each: Float[Tensor, " attributes"]
    confidence: float


class AttributeJudge(nn.Module):
    """Says which binary attributes a point has; its features serve the Fréchet distance.

    Train it on points that no generator under judgement has seen.

    Args:
        shape: of a point.
        attributes: number A.
        features: length of the features.
        width: units of the perceptron.
        widths: channels of a convolutional judge, in place of the perceptron.

    Examples:
        >>> judge = AttributeJudge((1, 8, 8), 3, width=16)
        >>> judge(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        shape: Sequence[int],
        attributes: int,
        *,
        features: int = 64,
        width: int = 256,
        widths: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.shape, self.attributes = tuple(shape), int(check_number("attributes", attributes, low=1, integer=True))
        self.convolutions = None if widths is None else ConvEncoder(shape, 0, features, widths=widths)
        self.perceptron = (
            feed_forward(math.prod(self.shape), width, features, layers=2, activation=nn.ReLU)
            if widths is None
            else None
        )
        self.head = nn.Linear(features, self.attributes)

    def features(self, x: Float[Tensor, "n *shape"]) -> Float[Tensor, "n features"]:
        """Return what the last layer reads."""
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"points must have shape (n, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}")
        if self.perceptron is not None:
            return self.perceptron(x.flatten(1)).relu()
        return self.convolutions(x, x.new_zeros(len(x), 0)).relu()  # type: ignore[misc]

    def forward(self, x: Float[Tensor, "n *shape"]) -> Float[Tensor, "n attributes"]:
        """Return the logit of every attribute."""
        return self.head(self.features(x))

    def fit(
        self,
        x: Float[Tensor, "n *shape"],
        c: Float[Tensor, "n attributes"],
        *,
        steps: int = 500,
        batch_size: int = 128,
        lr: float = 1e-3,
        seed: int = 0,
        **options: Any,
    ) -> Self:
        """Learn from points and their attributes, 0 or 1; options are those of :func:`holdfast.core.training.train`."""
        check_same_length(x=x, c=c)
        if c.ndim != 2 or c.shape[1] != self.attributes:
            raise ValueError(f"attributes must have shape (n, {self.attributes}), got {tuple(c.shape)}")

        def loss(judge: nn.Module, batch: tuple[Tensor, Tensor], info: StepInfo) -> Tensor:
            return F.binary_cross_entropy_with_logits(judge(batch[0]), batch[1])

        batches = Batches(
            BatchPlan(len(x), batch_size, seed=spawn_seed(seed, "judge")), lambda rows: (x[rows], c[rows])
        )
        train(self, loss, batches, steps=steps, optimizer="adam", lr=lr, schedule="cosine", seed=seed, **options)
        return self


@torch.no_grad()
def attribute_accuracy(
    samples: Float[Tensor, "n *shape"], c: Float[Tensor, "n attributes"], classifier: nn.Module
) -> AttributeAccuracy:
    """Compare the attributes that a classifier sees in samples with those that were asked for.

    Args:
        samples: one for every row of ``c``.
        c: attributes asked for, 0 or 1.
        classifier: from points to logits, such as :class:`AttributeJudge`.

    Raises:
        ValueError: for different lengths.

    Examples:
        >>> found = attribute_accuracy(torch.tensor([[9.0], [-9.0]]), torch.tensor([[1.0], [1.0]]), nn.Identity())
        >>> found.overall, round(found.confidence, 2)
        (0.5, 1.0)
    """
    check_same_length(samples=samples, c=c)
    logits = torch.cat([classifier(part) for part in samples.split(_ROWS)])
    right = ((logits > 0) == (c > 0.5)).double()
    return AttributeAccuracy(float(right.mean()), right.mean(0), float(logits.abs().sigmoid().mean()))


@torch.no_grad()
def frechet_feature_distance(
    samples: Float[Tensor, "n *shape"], real: Float[Tensor, "m *shape"], judge: AttributeJudge
) -> float:
    """Fréchet distance of two samples in the judge's features, see :func:`holdfast.metrics.frechet_distance`.

    Examples:
        >>> x = torch.rand(200, 4, generator=torch.Generator().manual_seed(0))
        >>> round(abs(frechet_feature_distance(x, x, AttributeJudge((4,), 1, features=8))), 4)
        0.0
    """
    a, b = (torch.cat([judge.features(part) for part in x.split(_ROWS)]) for x in (samples, real))
    return frechet_distance(a, b)
