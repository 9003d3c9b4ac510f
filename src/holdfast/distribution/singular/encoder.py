"""The posterior of a generator's latent."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from holdfast.nn.gaussian import DiagonalGaussian

__all__ = ["GaussianEncoder"]


class GaussianEncoder(nn.Module):
    """Posterior of the latent given a point: a Gaussian with independent coordinates.

    Args:
        net: from points and the one-hot of a chart (of length 0 without charts) to mean and log-variance, such as
            :class:`holdfast.nn.MLPEncoder`; twice as long as the latent.

    Examples:
        >>> import torch
        >>> from holdfast.nn.coders import MLPEncoder
        >>> encoder = GaussianEncoder(MLPEncoder((5,), 0, 2 * 3, width=8))
        >>> encoder(torch.zeros(4, 5)).mu.shape
        torch.Size([4, 3])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Float[Tensor, "n *shape"], tag: Float[Tensor, "n charts"] | None = None) -> DiagonalGaussian:
        """Return the posterior, its log-variance kept in [-12, 4]."""
        mu, log_var = self.net(x, x.new_zeros(len(x), 0) if tag is None else tag).chunk(2, dim=-1)
        return DiagonalGaussian(mu, log_var.clamp(-12, 4))
