"""A continuous code: Gaussian latents with a small pull towards the standard normal."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.core.checks import check_number
from holdfast.diffusion.autoencoder.bottleneck import Bottleneck, Code
from holdfast.nn.gaussian import gaussian_kl, normal

__all__ = ["GaussianKL"]

_LOG_VARIANCE = (-30.0, 20.0)


class GaussianKL(Bottleneck):
    r"""Gaussian bottleneck of latent diffusion: :math:`z = \mu + \sigma \epsilon` and the KL divergence to N(0, I).

    .. math:: \mathcal L = \beta \operatorname*{mean}_{b} \sum_{n,ij}
              \tfrac12 \bigl(\mu^2 + \sigma^2 - 1 - \log \sigma^2\bigr) / (H W)

    The code is the latent [B, c, h, w]. The sum is divided by the number of cells hw, so ``kl_weight`` means the same
    for every grid.

    Args:
        channels: latent channels c.
        width: channels of the feature map and of the embedding.
        kl_weight: :math:`\beta \ge 0`, usually far below 1.

    Raises:
        ValueError: for no channels, a negative weight, or maps of another width.

    Source: Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", CVPR 2022, Section 3.1.

    Examples:
        >>> code = GaussianKL(channels=4, width=16)(torch.zeros(2, 16, 3, 3), generator=torch.Generator())
        >>> code.code.shape, code.embedding.shape, float(code.loss.detach()) >= 0
        (torch.Size([2, 4, 3, 3]), torch.Size([2, 16, 3, 3]), True)
    """

    def __init__(self, channels: int, width: int, *, kl_weight: float = 1e-6) -> None:
        super().__init__(width)
        self.channels = int(check_number("channels", channels, low=1, integer=True))
        self.kl_weight = check_number("kl_weight", kl_weight, low=0)
        self.bits_per_cell = math.inf
        self.to_moments = nn.Conv2d(width, 2 * channels, 1)
        self.embedding = nn.Conv2d(channels, width, 1)

    def moments(self, h: Float[Tensor, "batch width h w"]) -> tuple[Tensor, Tensor]:
        """Return the mean and the log-variance of the latent, each [B, c, h, w]."""
        self.check_map(h)
        mean, log_variance = self.to_moments(h).chunk(2, dim=1)
        return mean, log_variance.clamp(*_LOG_VARIANCE)

    def forward(self, h: Float[Tensor, "batch width h w"], *, generator: torch.Generator | None = None) -> Code:
        """Return a drawn latent; ``stats`` hold the KL divergence per cell and the latent's scale."""
        mean, log_variance = self.moments(h)
        z = mean + (0.5 * log_variance).exp() * normal(mean.shape, mean, generator)
        kl = gaussian_kl(mean, log_variance, reduce="none").sum(1).mean()
        stats = {"kl_per_cell": kl.detach(), "latent_std": z.detach().std()}
        return Code(self.embedding(z), z, self.kl_weight * kl, stats)

    def encode(
        self, h: Float[Tensor, "batch width h w"], *, generator: torch.Generator | None = None, sample: bool = True
    ) -> Float[Tensor, "batch c h w"]:
        """Return a drawn latent, or its mean with ``sample=False``."""
        with torch.no_grad():
            mean, log_variance = self.moments(h)
            if not sample:
                return mean
            return mean + (0.5 * log_variance).exp() * normal(mean.shape, mean, generator)

    def embed(self, code: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch width h w"]:
        """Return the embedding of a latent."""
        if code.ndim != 4 or code.shape[1] != self.channels:
            raise ValueError(f"latents must have shape (batch, {self.channels}, h, w), got {tuple(code.shape)}")
        return self.embedding(code)
