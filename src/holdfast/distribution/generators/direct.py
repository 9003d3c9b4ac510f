"""A generator that maps noise and a code straight to a point, learned by a distance between two samples."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.core.checks import check_choice, check_number
from holdfast.distribution.generators.inputs import check_codes, check_points
from holdfast.metrics.distances import (
    kernel_discrepancy,
    median_distance,
    sinkhorn_divergence,
    sliced_transport,
)
from holdfast.nn.feed_forward import feed_forward

__all__ = ["DirectGenerator"]


class DirectGenerator(nn.Module):
    r"""``x = MLP([z ; noise])``, compared with the set by a distance of two samples of equal size.

    .. math:: \mathrm{loss} = \tfrac1B \sum_i D\bigl(S_i,\ \{\mathrm{MLP}([z_i\,;\,\nu_j])\}_j\bigr), \qquad
              \nu_j \sim N(0, I)

    Args:
        features, code: dimension d of a point, length l of a code.
        noise_dim: length of the noise; the code's by default.
        width, layers: of the perceptron.
        loss: D: "swd", sliced Wasserstein-2 squared; "mmd", squared mean discrepancy of a Gaussian kernel at the
            median distance of the points; "sinkhorn", the debiased Sinkhorn divergence with squared cost.
        n_proj: directions of "swd".
        eps: entropic weight of "sinkhorn", in units of the mean squared distance of the points.

    Raises:
        ValueError: for sets of one point with "mmd", which has no median distance then.

    Source: Fishman et al., "Generative distribution embeddings", NeurIPS 2025.

    Examples:
        >>> model = DirectGenerator(3, 4, width=16)
        >>> rng = torch.Generator().manual_seed(0)
        >>> model.loss(torch.randn(2, 8, 3), torch.zeros(2, 4), rng).ndim
        0
        >>> model.sample(torch.zeros(2, 4), 7, rng).shape
        torch.Size([2, 7, 3])
    """

    def __init__(
        self,
        features: int,
        code: int,
        *,
        noise_dim: int | None = None,
        width: int = 128,
        layers: int = 3,
        loss: Literal["swd", "mmd", "sinkhorn"] = "swd",
        n_proj: int = 100,
        eps: float = 0.05,
    ) -> None:
        super().__init__()
        self.kind = check_choice("loss", loss, ["swd", "mmd", "sinkhorn"])
        check_number("n_proj", n_proj, low=1, integer=True)
        check_number("eps", eps, low=0, open_low=True)
        self.features, self.code, self.n_proj, self.eps = features, code, n_proj, eps
        self.noise_dim = code if noise_dim is None else int(check_number("noise_dim", noise_dim, low=1, integer=True))
        self.net = feed_forward(code + self.noise_dim, width, features, layers=layers)

    def loss(
        self,
        x: Float[Tensor, "batch points features"],
        z: Float[Tensor, "batch code"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """Return the mean distance of each set from as many generated points."""
        check_points(x, z, (self.features,), self.code)
        y = self._draw(z, x.shape[1], generator)
        if self.kind == "swd":
            return sliced_transport(x, y, n_projections=self.n_proj, generator=generator).mean()
        if self.kind == "mmd":
            if x.shape[1] < 2:
                raise ValueError("loss='mmd' takes the median distance of the points: sets need at least two, got one")
            median = median_distance(x).clamp_min(1e-6)
            return kernel_discrepancy(x, y, median[:, None]).mean()
        return sinkhorn_divergence(x, y, share=self.eps).mean()

    def _draw(self, z: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
        noise = torch.randn(len(z), n, self.noise_dim, generator=generator, device=z.device, dtype=z.dtype)
        return self.net(torch.cat([z[:, None].expand(-1, n, -1), noise], dim=-1))

    @torch.no_grad()
    def sample(
        self, z: Float[Tensor, "batch code"], n: int, generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch n features"]:
        """Draw ``n`` points for every code."""
        check_codes(z, self.code)
        check_number("n", n, low=1, integer=True)
        return self._draw(z, n, generator)
