"""What invariant learning adds to the risk: penalties that compare environments."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from holdfast.core.checks import check_number
from holdfast.core.groups import group_mean

__all__ = ["GroupDROLoss", "IRMv1Loss", "VRExLoss", "coral_penalty", "irm_penalty", "vrex_penalty"]


def vrex_penalty(
    losses: Float[Tensor, " batch"], environment: Int[Tensor, " batch"], n_environments: int
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    r"""Return the mean risk over environments and the variance of the risks.

    .. math:: \bar R = \frac1E \sum_e R_e, \qquad V = \frac1E \sum_e (R_e - \bar R)^2

    Environments that are absent from the batch do not count.

    Source: Krueger et al., *Out-of-distribution generalization via risk extrapolation*, ICML 2021, eq. 8.

    Examples:
        >>> risk, penalty = vrex_penalty(torch.tensor([1.0, 3.0]), torch.tensor([0, 1]), 2)
        >>> risk.item(), penalty.item()
        (2.0, 1.0)
    """
    risks, counts = group_mean(losses, environment, n_environments)
    present = (counts > 0).to(losses)
    n = present.sum().clamp_min(1)
    mean = (risks * present).sum() / n
    return mean, (((risks - mean) ** 2) * present).sum() / n


class VRExLoss(nn.Module):
    r"""Risk extrapolation, :math:`\bar R + \beta \operatorname{Var}_e(R_e)`; see :func:`vrex_penalty`.

    Raises:
        ValueError: for a negative ``beta``.

    Examples:
        >>> VRExLoss(beta=10.0)(torch.tensor([1.0, 3.0]), torch.tensor([0, 1])).item()
        12.0
    """

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__()
        self.beta = check_number("beta", beta, low=0)

    def forward(
        self, losses: Float[Tensor, " batch"], environment: Int[Tensor, " batch"], n_environments: int | None = None
    ) -> Float[Tensor, ""]:
        n = int(environment.max()) + 1 if n_environments is None else n_environments
        risk, penalty = vrex_penalty(losses, environment, n)
        return risk + self.beta * penalty


def irm_penalty(
    logits: Float[Tensor, "batch classes"],
    target: Int[Tensor, " batch"],
    environment: Int[Tensor, " batch"],
    n_environments: int,
    *,
    unbiased: bool = True,
) -> Float[Tensor, ""]:
    r"""Return the squared gradient of every environment's cross-entropy in a dummy scale, averaged.

    .. math:: \frac1E \sum_e \Big\| \nabla_{w|w=1} R_e(w \cdot f) \Big\|^2, \qquad
        \nabla_{w|w=1} \ell(w f, y) = \sum_k (\mathrm{softmax}(f)_k - [k = y]) f_k

    The gradient is in closed form, so no second backward pass is needed. ``unbiased`` multiplies the mean gradients
    of two halves of each environment's samples, which estimates the square without bias (and may be negative).

    Source: Arjovsky et al., *Invariant risk minimization*, 2019, eq. IRMv1 and section 3.1.

    Examples:
        >>> logits, y = torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1])
        >>> penalty = irm_penalty(logits, y, torch.tensor([0, 0]), 1, unbiased=False)
        >>> round(penalty.sqrt().item(), 4)      # 2 * (softmax - 1)
        0.2384
    """
    gradient = ((logits.softmax(1) - F.one_hot(target, logits.shape[1])) * logits).sum(1)
    if not unbiased:
        means, counts = group_mean(gradient, environment, n_environments)
        present = (counts > 0).to(gradient)
        return (means**2 * present).sum() / present.sum().clamp_min(1)
    # Alternate the samples of each environment between two halves: the rank of a sample within its environment.
    one_hot = F.one_hot(environment, n_environments)
    half = ((one_hot.cumsum(0) - 1).gather(1, environment[:, None])[:, 0]) % 2
    means, counts = group_mean(gradient, environment * 2 + half, 2 * n_environments)
    first, second = means.view(-1, 2).unbind(1)
    present = (counts.view(-1, 2) > 0).all(1).to(gradient)
    return (first * second * present).sum() / present.sum().clamp_min(1)


class IRMv1Loss(nn.Module):
    r"""Invariant risk minimisation, :math:`R + \lambda \cdot` :func:`irm_penalty`, rescaled by
    :math:`\max(1, \lambda)` so that a large penalty does not raise the step size.

    Examples:
        >>> loss = IRMv1Loss(penalty=0.0)(torch.zeros(2, 2), torch.tensor([0, 1]), torch.tensor([0, 1]))
        >>> round(loss.item(), 4)
        0.6931
    """

    def __init__(self, penalty: float = 1.0, *, unbiased: bool = True) -> None:
        super().__init__()
        self.penalty = check_number("penalty", penalty, low=0)
        self.unbiased = unbiased

    def forward(
        self,
        logits: Float[Tensor, "batch classes"],
        target: Int[Tensor, " batch"],
        environment: Int[Tensor, " batch"],
        n_environments: int | None = None,
        *,
        weight: float = 1.0,
    ) -> Float[Tensor, ""]:
        """Return the loss; ``weight`` in [0, 1] scales the penalty, for annealing."""
        n = int(environment.max()) + 1 if n_environments is None else n_environments
        strength = self.penalty * weight
        risk = F.cross_entropy(logits, target)
        loss = risk + strength * irm_penalty(logits, target, environment, n, unbiased=self.unbiased)
        return loss / max(1.0, strength)


def coral_penalty(
    features: Float[Tensor, "batch dim"], environment: Int[Tensor, " batch"], n_environments: int
) -> Float[Tensor, ""]:
    r"""Return the mean squared difference of means and covariances over all pairs of environments.

    .. math:: \frac{2}{E(E-1)} \sum_{e<e'} \Big( \tfrac1d \|\mu_e - \mu_{e'}\|^2
        + \tfrac1{d^2} \|C_e - C_{e'}\|_F^2 \Big)

    Environments with fewer than two samples in the batch do not count.

    Source: Sun & Saenko, *Deep CORAL*, ECCV-W 2016, eq. 1; with means, as in Gulrajani & Lopez-Paz, ICLR 2021.

    Examples:
        >>> x = torch.tensor([[0.0], [2.0], [1.0], [3.0]])
        >>> coral_penalty(x, torch.tensor([0, 0, 1, 1]), 2).item()      # means differ by 1, covariances agree
        1.0
    """
    means, counts = group_mean(features, environment, n_environments)
    centred = features - means[environment]
    one_hot = F.one_hot(environment, n_environments).to(features)
    scatter = torch.einsum("bg,bi,bj->gij", one_hot, centred, centred)
    covariance = scatter / (counts - 1).clamp_min(1)[:, None, None]
    present = (counts > 1).to(features)
    n = present.sum()
    pairs = (n * (n - 1) / 2).clamp_min(1)

    def spread(a: Tensor) -> Tensor:
        # sum over pairs of squared differences = n * sum of squared deviations from the mean
        a = a.flatten(1)
        centre = (a * present[:, None]).sum(0) / n.clamp_min(1)
        return n * (((a - centre) ** 2).mean(1) * present).sum()

    return (spread(means) + spread(covariance)) / pairs


class GroupDROLoss(nn.Module):
    r"""The worst group's risk, by exponentiated-gradient weights on groups.

    .. math:: q_g \leftarrow q_g \exp(\eta R_g) / Z, \qquad L = \sum_g q_g R_g

    Buffer ``weights`` (groups,) holds q; groups absent from a batch keep their relative weight.

    Source: Sagawa et al., *Distributionally robust neural networks for group shifts*, ICLR 2020, algorithm 1.

    Raises:
        ValueError: for fewer than one group or a step size that is not positive.

    Examples:
        >>> loss = GroupDROLoss(n_groups=2, step_size=1.0)
        >>> _ = loss(torch.tensor([0.0, 3.0]), torch.tensor([0, 1]))
        >>> bool(loss.weights[1] > 0.9)
        True
    """

    weights: Tensor

    def __init__(self, n_groups: int, step_size: float = 0.01) -> None:
        super().__init__()
        check_number("n_groups", n_groups, low=1, integer=True)
        self.n_groups = n_groups
        self.step_size = check_number("step_size", step_size, low=0, open_low=True)
        self.register_buffer("weights", torch.full((n_groups,), 1.0 / n_groups))

    def forward(self, losses: Float[Tensor, " batch"], groups: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
        risks, counts = group_mean(losses, groups, self.n_groups)
        if self.training:
            with torch.no_grad():
                scaled = self.weights * torch.exp(self.step_size * risks.detach() * (counts > 0))
                self.weights.copy_(scaled / scaled.sum())
        return (self.weights * risks).sum()
