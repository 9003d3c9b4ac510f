"""Mixup: training on convex combinations of samples and of their labels."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.core.checks import check_number
from holdfast.core.training import StepInfo
from holdfast.nn import Batch, FitContext, NeuralClassifier, SampleLoss, learner

__all__ = ["Mixup", "beta_sample"]


def beta_sample(alpha: float, n: int, generator: torch.Generator | None = None) -> Float[Tensor, " n"]:
    r"""Draw n values from Beta(α, α), as a ratio of two gamma draws.

    Examples:
        >>> draws = beta_sample(0.2, 5, torch.Generator().manual_seed(0))
        >>> bool(((draws >= 0) & (draws <= 1)).all())
        True
    """
    check_number("alpha", alpha, low=0, open_low=True)
    # float64: for small alpha both gamma draws can underflow in float32 and leave 0/0.
    shape = torch.full((2, n), alpha, dtype=torch.float64)
    # torch.distributions, the public way to this function, takes no generator.
    a, b = torch._standard_gamma(shape, generator=generator)  # pyright: ignore[reportPrivateImportUsage]
    return (a / (a + b)).nan_to_num(0.5).float()


class _MixupRisk(nn.Module):
    def __init__(self, alpha: float, sample_loss: SampleLoss, mix_input: bool) -> None:
        super().__init__()
        self.alpha, self.sample_loss, self.mix_input = alpha, sample_loss, mix_input

    def forward(self, network: Any, batch: Batch, info: StepInfo) -> Tensor:
        n = len(batch.y)
        weight = beta_sample(self.alpha, n, info.generator).to(batch.y.device)
        partner = torch.randperm(n, generator=info.generator).to(batch.y.device)

        def mix(z: Tensor) -> Tensor:
            w = weight.view(-1, *(1,) * (z.ndim - 1))
            return w * z + (1 - w) * z[partner]

        if self.mix_input:
            x = batch.x / 255 if batch.x.dtype == torch.uint8 else batch.x
            outputs = network(mix(x))
        else:
            outputs = network.head(mix(network.features(batch.x)))
        own, other = self.sample_loss(outputs, batch.y), self.sample_loss(outputs, batch.y[partner])
        return (weight * own + (1 - weight) * other).mean()


@learner
class Mixup(NeuralClassifier):
    r"""Empirical risk on mixed samples.

    .. math:: \tilde x = \lambda x_i + (1-\lambda) x_j, \quad
        L = \lambda\,\ell(f(\tilde x), y_i) + (1-\lambda)\,\ell(f(\tilde x), y_j), \quad
        \lambda \sim \mathrm{Beta}(\alpha, \alpha)

    Vectors and images are mixed as they are; tables, texts, sets and graphs, whose raw values cannot be averaged,
    are mixed in the representation. Batches hold every environment equally, so pairs cross environments.

    Source: Zhang et al., *mixup: Beyond empirical risk minimization*, ICLR 2018, eq. 1; across environments as in
    Xu et al., AAAI 2020.

    Examples:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(40, 3))
        >>> Mixup(alpha=0.4, epochs=1, random_state=0).fit(x, x[:, 0] > 0).predict(x).shape
        (40,)
    """

    balances_environments = True

    alpha: float = 0.2

    def _make_objective(self, context: FitContext) -> nn.Module:
        check_number("alpha", self.alpha, low=0, open_low=True)
        return _MixupRisk(self.alpha, self._sample_loss, self.input_.signature.kind in ("vector", "image"))
