"""Laws on finitely many values, told by a code."""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from holdfast.core.checks import check_number
from holdfast.distribution.generators.inputs import check_codes, check_points
from holdfast.nn.feed_forward import feed_forward

__all__ = ["CategoricalGenerator"]


class CategoricalGenerator(nn.Module):
    r"""A law on the counts 0 to K - 1: ``softmax(MLP(z))``, learned by the mean negative log-likelihood.

    Points have one feature, the count; a set is (m, 1).

    Args:
        values: K.
        code: length l of a code.
        width, layers: of the perceptron.

    Raises:
        ValueError: for points that are no whole numbers from 0 to K - 1.

    Source: the Poisson example of Fishman et al., "Generative distribution embeddings", NeurIPS 2025.

    Examples:
        >>> model = CategoricalGenerator(3, 2)
        >>> model.probabilities(torch.zeros(1, 2)).sum().round(decimals=4).item()
        1.0
        >>> model.sample(torch.zeros(2, 2), 5, torch.Generator().manual_seed(0)).shape
        torch.Size([2, 5, 1])
    """

    def __init__(self, values: int, code: int, *, width: int = 64, layers: int = 2) -> None:
        super().__init__()
        check_number("values", values, low=2, integer=True)
        self.values, self.code = values, code
        self.net = feed_forward(code, width, values, layers=layers)

    def probabilities(self, z: Float[Tensor, "batch code"]) -> Float[Tensor, "batch values"]:
        """Return the law of every code."""
        check_codes(z, self.code)
        return self.net(z).softmax(-1)

    def loss(
        self,
        x: Shaped[Tensor, "batch points 1"],
        z: Float[Tensor, "batch code"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """Return the mean negative log-likelihood of the points."""
        check_points(x, z, (1,), self.code)
        k = x.squeeze(-1).long()
        if bool((k != x.squeeze(-1)).any()) or int(k.min()) < 0 or int(k.max()) >= self.values:
            raise ValueError(
                f"points must be whole numbers from 0 to {self.values - 1}, got {float(x.min()):g} to "
                f"{float(x.max()):g}"
            )
        return -self.net(z).log_softmax(-1).gather(1, k).mean()

    @torch.no_grad()
    def sample(
        self, z: Float[Tensor, "batch code"], n: int, generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch n 1"]:
        """Draw ``n`` counts for every code."""
        check_number("n", n, low=1, integer=True)
        drawn = torch.multinomial(self.probabilities(z), n, replacement=True, generator=generator)
        return drawn.unsqueeze(-1).to(z.dtype)
