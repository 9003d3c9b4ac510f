"""Gaussians with independent coordinates: the laws of latent codes, and the divergence between two."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Normal

from holdfast.core.checks import check_choice

__all__ = ["DiagonalGaussian", "gaussian_kl", "normal", "uniform"]


def normal(
    shape: tuple[int, ...] | torch.Size, like: Tensor, generator: torch.Generator | None = None
) -> Float[Tensor, "..."]:
    """Return standard normal numbers of the type and on the device of ``like``, drawn where the generator lives.

    Examples:
        >>> normal((2, 3), torch.zeros(1, dtype=torch.float64), torch.Generator().manual_seed(0)).dtype
        torch.float64
    """
    device = like.device if generator is None else generator.device
    return torch.randn(shape, generator=generator, device=device, dtype=like.dtype).to(like.device)


def uniform(
    shape: tuple[int, ...] | torch.Size, like: Tensor, generator: torch.Generator | None = None
) -> Float[Tensor, "..."]:
    """Return numbers uniform in [0, 1), of the type and on the device of ``like``, drawn where the generator lives.

    Examples:
        >>> uniform((2, 3), torch.zeros(1), torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3])
    """
    device = like.device if generator is None else generator.device
    return torch.rand(shape, generator=generator, device=device, dtype=like.dtype).to(like.device)


def gaussian_kl(
    mu_q: Float[Tensor, "*batch latent"],
    lv_q: Float[Tensor, "*batch latent"],
    mu_p: Float[Tensor, "*batch latent"] | None = None,
    lv_p: Float[Tensor, "*batch latent"] | None = None,
    reduce: Literal["sum", "mean", "none"] = "sum",
) -> Float[Tensor, "..."]:
    r"""Kullback-Leibler divergence of two Gaussians with independent coordinates.

    .. math:: KL(q \,\|\, p) = \sum_l \tfrac12 \Bigl[ \log \tfrac{s_{p,l}^2}{s_{q,l}^2} +
              \tfrac{s_{q,l}^2 + (\mu_{q,l} - \mu_{p,l})^2}{s_{p,l}^2} - 1 \Bigr]

    Args:
        mu_q, lv_q: mean and log-variance of q.
        mu_p, lv_p: those of p; the standard normal without them.
        reduce: "sum" or "mean" over the last axis, or "none" for one number per coordinate.

    Raises:
        ValueError: for shapes that do not fit, one of ``mu_p`` and ``lv_p`` without the other, or another ``reduce``.

    Source: Kingma and Welling, "Auto-encoding variational Bayes", ICLR 2014, appendix B.

    Examples:
        >>> gaussian_kl(torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2))
        tensor([0.5000])
    """
    check_choice("reduce", reduce, ["sum", "mean", "none"])
    if (mu_p is None) != (lv_p is None):
        raise ValueError("mu_p and lv_p belong together: give both, or neither for the standard normal")
    for name, value in (("lv_q", lv_q), ("mu_p", mu_p), ("lv_p", lv_p)):
        if value is not None and value.shape[-1:] != mu_q.shape[-1:]:
            raise ValueError(f"{name} must have {mu_q.shape[-1]} coordinates as mu_q, got {tuple(value.shape)}")
    if mu_p is None or lv_p is None:
        kl = 0.5 * (mu_q.square() + lv_q.exp() - 1 - lv_q)
    else:
        kl = 0.5 * (lv_p - lv_q + (lv_q - lv_p).exp() + (mu_q - mu_p).square() * (-lv_p).exp() - 1)
    if reduce == "none":
        return kl
    return kl.sum(-1) if reduce == "sum" else kl.mean(-1)


class DiagonalGaussian(NamedTuple):
    """A Gaussian with independent coordinates along the last axis, one for every leading index.

    Examples:
        >>> q = DiagonalGaussian(torch.zeros(5, 2), torch.zeros(5, 2))
        >>> q.sample(torch.Generator().manual_seed(0), 3).shape, q.log_prob(torch.zeros(5, 2)).shape
        (torch.Size([3, 5, 2]), torch.Size([5]))
    """

    mu: Float[Tensor, "*batch latent"]
    log_var: Float[Tensor, "*batch latent"]

    @property
    def mean(self) -> Float[Tensor, "*batch latent"]:
        """Mean of every coordinate."""
        return self.mu

    @property
    def std(self) -> Float[Tensor, "*batch latent"]:
        """Standard deviation of every coordinate."""
        return (0.5 * self.log_var).exp()

    def at(self, eps: Float[Tensor, "*any latent"]) -> Float[Tensor, "*any latent"]:
        """Return the point at standard normal noise ``eps``, with the gradient of mean and deviation."""
        return self.mu + self.std * eps

    def sample(self, generator: torch.Generator | None = None, n: int | None = None) -> Float[Tensor, "..."]:
        """Draw once, or ``n`` times along a new first axis, with the gradient of mean and deviation."""
        shape = self.mu.shape if n is None else (n, *self.mu.shape)
        return self.at(normal(shape, self.mu, generator))

    def log_prob(self, z: Float[Tensor, "*any latent"]) -> Float[Tensor, "*any"]:
        """Return the log-density of points."""
        return Normal(self.mu, self.std, validate_args=False).log_prob(z).sum(-1)

    def kl(self, other: DiagonalGaussian | None = None) -> Float[Tensor, "*batch latent"]:
        """Return the divergence from ``other`` (or N(0, I)) of every coordinate, see :func:`gaussian_kl`."""
        if other is None:
            return gaussian_kl(self.mu, self.log_var, reduce="none")
        return gaussian_kl(self.mu, self.log_var, other.mu, other.log_var, "none")

    def detach(self) -> DiagonalGaussian:
        """Return the same law without gradient."""
        return DiagonalGaussian(self.mu.detach(), self.log_var.detach())
