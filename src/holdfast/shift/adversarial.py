"""Adversarial invariance: a representation from which the environment cannot be told."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.core.checks import check_number
from holdfast.core.training import StepInfo
from holdfast.nn import Batch, FitContext, NeuralClassifier, SampleLoss, learner

__all__ = ["DANN", "reverse_gradient"]


class _ReverseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.scale * gradient, None


def reverse_gradient(x: Float[Tensor, "*shape"], scale: float = 1.0) -> Float[Tensor, "*shape"]:
    """Return ``x`` unchanged; on the way back its gradient is multiplied by ``-scale``.

    Source: Ganin et al., *Domain-adversarial training of neural networks*, JMLR 17, 2016, section 4.2.

    Examples:
        >>> x = torch.ones(2, requires_grad=True)
        >>> reverse_gradient(x, 0.5).sum().backward()
        >>> x.grad.tolist()
        [-0.5, -0.5]
    """
    return _ReverseGradient.apply(x, scale)


class _AdversarialRisk(nn.Module):
    def __init__(self, width: int, n_environments: int, penalty: float, hidden: int, sample_loss: SampleLoss) -> None:
        super().__init__()
        self.penalty, self.sample_loss = penalty, sample_loss
        self.discriminator = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, n_environments)
        )

    def forward(self, network: Any, batch: Batch, info: StepInfo) -> dict[str, Tensor]:
        features = network.features(batch.x)
        risk = self.sample_loss(network.head(features), batch.y).mean()
        # The reversed gradient grows from 0 to 1 while the discriminator learns (Ganin et al., section 5.2.2).
        scale = 2 / (1 + math.exp(-10 * info.step / max(1, info.total))) - 1
        guess = self.discriminator(reverse_gradient(features, self.penalty * scale))
        adversary = F.cross_entropy(guess, batch.environment)
        return {"loss": risk + adversary, "risk": risk, "adversary": adversary}


@learner
class DANN(NeuralClassifier):
    r"""Domain-adversarial training: the representation is trained to make a discriminator of environments fail.

    .. math:: \min_{\phi, w} \max_{d} \; R(w \circ \phi) - \lambda\, \mathrm{CE}(d \circ \phi, e)

    Source: Ganin et al., *Domain-adversarial training of neural networks*, JMLR 17, 2016.

    Examples:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(40, 3))
        >>> DANN(epochs=1, random_state=0).fit(x, x[:, 0] > 0, environment=np.arange(40) % 2).predict(x).shape
        (40,)
    """

    balances_environments = True

    penalty: float = 0.3
    discriminator_width: int = 64

    def _make_objective(self, context: FitContext) -> nn.Module:
        check_number("penalty", self.penalty, low=0)
        check_number("discriminator_width", self.discriminator_width, low=1, integer=True)
        self._warn_single_environment(context)
        return _AdversarialRisk(
            context.width, context.n_environments, self.penalty, self.discriminator_width, self._sample_loss
        )
