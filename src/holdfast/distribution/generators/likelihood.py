"""What a decoder's output says of a point: a law for every entry."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.core.checks import check_choice, check_number
from holdfast.nn.gaussian import normal, uniform

__all__ = [
    "BernoulliLikelihood",
    "DiscretisedLikelihood",
    "GaussianLikelihood",
    "Likelihood",
    "make_likelihood",
]


class Likelihood(nn.Module, ABC):
    """Law of every entry of a point given a decoder's raw output, independent of the other entries."""

    def check(self, x: Tensor) -> None:
        """Raise ``ValueError`` for points that the law gives no probability."""

    @abstractmethod
    def log_prob(self, x: Float[Tensor, "*any"], out: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """Return the log-probability, or log-density, of every entry."""

    @abstractmethod
    def mean(self, out: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """Return the mean of every entry."""

    @abstractmethod
    def sample(self, out: Float[Tensor, "*any"], generator: torch.Generator | None = None) -> Float[Tensor, "*any"]:
        """Draw every entry."""


class BernoulliLikelihood(Likelihood):
    """Zero or one with the output as logit. Grey values in [0, 1] are taken too: then this is a loss, not a density.

    Examples:
        >>> BernoulliLikelihood().log_prob(torch.tensor([1.0]), torch.tensor([0.0]))
        tensor([-0.6931])
    """

    def check(self, x: Tensor) -> None:
        """Raise ``ValueError`` for entries outside [0, 1]."""
        _check_unit("the Bernoulli likelihood", x)

    def log_prob(self, x: Float[Tensor, "*any"], out: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """Return minus the cross-entropy of every entry."""
        return -F.binary_cross_entropy_with_logits(out, x.expand_as(out), reduction="none")

    def mean(self, out: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """Return the probability of a one."""
        return out.sigmoid()

    def sample(self, out: Float[Tensor, "*any"], generator: torch.Generator | None = None) -> Float[Tensor, "*any"]:
        """Draw zeros and ones."""
        u = uniform(out.shape, out, generator)
        return (u < out.sigmoid()).to(out.dtype)


class GaussianLikelihood(Likelihood):
    r"""Normal of a fixed deviation: up to a constant, minus :math:`\lVert x - \hat x \rVert^2 / 2 s^2`.

    A weight beta of the divergence and s act as one number, :math:`\beta s^2`: fix s first.

    Args:
        sd: deviation s.
        link: how the output becomes the mean: "sigmoid" for images in [0, 1], or "identity".

    Raises:
        ValueError: for a deviation that is not positive, or another link.

    Examples:
        >>> GaussianLikelihood(1.0, "identity").log_prob(torch.zeros(1), torch.zeros(1))
        tensor([-0.9189])
    """

    def __init__(self, sd: float = 0.1, link: Literal["sigmoid", "identity"] = "sigmoid") -> None:
        super().__init__()
        self.sd = check_number("sd", sd, low=0, open_low=True)
        self.link = check_choice("link", link, ["sigmoid", "identity"])

    def mean(self, out: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """Return the output, through its link."""
        return out.sigmoid() if self.link == "sigmoid" else out

    def log_prob(self, x: Float[Tensor, "*any"], out: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """Return the log-density of every entry."""
        constant = math.log(self.sd) + 0.5 * math.log(2 * math.pi)
        return -0.5 * ((x - self.mean(out)) / self.sd).square() - constant

    def sample(self, out: Float[Tensor, "*any"], generator: torch.Generator | None = None) -> Float[Tensor, "*any"]:
        """Draw around the mean."""
        return self.mean(out) + self.sd * normal(out.shape, out, generator)


class DiscretisedLikelihood(Likelihood):
    r"""Equally spaced grey levels in [0, 1]: the mass that a logistic law gives to the cell of each.

    .. math:: P(x) = \sigma\bigl((x + h - m) / s\bigr) - \sigma\bigl((x - h - m) / s\bigr)

    with the outermost cells open and :math:`h` half the distance of two levels.

    Args:
        scale: s of the logistic law.
        levels: grey levels.

    Raises:
        ValueError: for a scale that is not positive or fewer than two levels.

    Source: Salimans et al., "PixelCNN++", ICLR 2017, equation 2.

    Examples:
        >>> grey = torch.linspace(0, 1, 4)
        >>> DiscretisedLikelihood(0.2, 4).log_prob(grey, torch.zeros(4)).exp().sum()
        tensor(1.)
    """

    def __init__(self, scale: float = 0.05, levels: int = 256) -> None:
        super().__init__()
        self.scale = check_number("scale", scale, low=0, open_low=True)
        self.levels = int(check_number("levels", levels, low=2, integer=True))

    def check(self, x: Tensor) -> None:
        """Raise ``ValueError`` for entries outside [0, 1]."""
        _check_unit("the discretised likelihood", x)

    def mean(self, out: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """Return the centre of the logistic law."""
        return out.sigmoid()

    def log_prob(self, x: Float[Tensor, "*any"], out: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """Return the log-mass of every entry's cell."""
        h = 0.5 / (self.levels - 1)
        centre = self.mean(out)
        upper, lower = (x + h - centre) / self.scale, (x - h - centre) / self.scale
        # s(u) - s(l) = s(u) s(-l) (1 - e^(l - u)), which stays finite in logs where both terms round to one.
        inside = F.logsigmoid(upper) + F.logsigmoid(-lower) + math.log(-math.expm1(-2 * h / self.scale))
        first = F.logsigmoid(upper)
        last = F.logsigmoid(-lower)
        return torch.where(x <= h, first, torch.where(x >= 1 - h, last, inside))

    def sample(self, out: Float[Tensor, "*any"], generator: torch.Generator | None = None) -> Float[Tensor, "*any"]:
        """Draw grey levels."""
        u = uniform(out.shape, out, generator).clamp(1e-6, 1 - 1e-6)
        x = (self.mean(out) + self.scale * u.logit()).clamp(0, 1)
        return (x * (self.levels - 1)).round() / (self.levels - 1)


def make_likelihood(
    likelihood: Literal["bernoulli", "gaussian", "discretised"] | Likelihood,
) -> Likelihood:
    """Return the likelihood of a name with its defaults, or the one that is given.

    Examples:
        >>> make_likelihood("gaussian").sd
        0.1
    """
    if isinstance(likelihood, Likelihood):
        return likelihood
    check_choice("likelihood", likelihood, ["bernoulli", "gaussian", "discretised"])
    kinds = {
        "bernoulli": BernoulliLikelihood,
        "gaussian": GaussianLikelihood,
        "discretised": DiscretisedLikelihood,
    }
    return kinds[likelihood]()


def _check_unit(who: str, x: Tensor) -> None:
    low, high = float(x.min()), float(x.max())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"{who} takes entries in [0, 1], got {low:g} to {high:g}; divide images by 255")
