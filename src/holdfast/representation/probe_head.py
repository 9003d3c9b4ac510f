"""The layer a linear probe fits: standardise, then read linearly or by cosine."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["ProbeHead", "standardisation"]


class ProbeHead(nn.Module):
    r"""Fixed standardisation and a linear (or cosine) layer: raw features in, logits out.

    .. math:: o = W \frac{x - \mu}{\sigma} + b \quad\text{or}\quad
              o_c = s \cos\Bigl(w_c, \frac{x - \mu}{\sigma}\Bigr)

    In the cosine form the rows of ``weight`` all have norm :math:`s` and there is no bias.

    Examples:
        >>> head = ProbeHead(torch.zeros(2), torch.ones(2), torch.eye(2), torch.zeros(2))
        >>> head(torch.tensor([[3.0, 1.0]])).tolist()
        [[3.0, 1.0]]
    """

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, mean: Tensor, scale: Tensor, weight: Tensor, bias: Tensor, cosine: bool = False) -> None:
        super().__init__()
        self.cosine = cosine
        for name, value in (("mean", mean), ("scale", scale), ("weight", weight), ("bias", bias)):
            self.register_buffer(name, value)

    def standardize(self, x: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """Return the features as the linear layer sees them."""
        z = (x.to(self.mean.dtype) - self.mean) / self.scale
        return F.normalize(z, dim=1) if self.cosine else z

    def forward(self, x: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch classes"]:
        """Return logits."""
        return F.linear(self.standardize(x), self.weight, self.bias)


def standardisation(x: Tensor, how: str) -> tuple[Float[Tensor, " dim"], Float[Tensor, " dim"]]:
    """Return the mean and scale of ``"none"``, ``"batchnorm"`` (biased variance + 1e-5) or ``"zscore"``.

    Examples:
        >>> standardisation(torch.tensor([[1.0, 5.0], [3.0, 5.0]]), "zscore")
        (tensor([2., 5.]), tensor([1., 1.]))
    """
    if how == "none":
        return torch.zeros_like(x[0]), torch.ones_like(x[0])
    variance, mean = torch.var_mean(x, 0, correction=0)
    if how == "batchnorm":
        return mean, (variance + 1e-5).sqrt()
    # Rounding alone gives a constant feature a tiny spread.
    constant = variance.sqrt() <= 1e-12 * mean.abs()
    return mean, torch.where(constant, 1.0, variance.sqrt())
