"""A decoder from a code to a set of one fixed size, by attention; codes are pulled apart by transport distances."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.core.checks import check_number
from holdfast.distribution.generators.inputs import check_codes, check_points
from holdfast.metrics.distances import sinkhorn_divergence
from holdfast.nn.attention import TransformerBlock

__all__ = ["WormholeDecoder"]


class WormholeDecoder(nn.Module):
    r"""Decode a code to exactly ``set_size`` points; a baseline, as it has no law to sample from.

    .. math:: \mathrm{loss} = \tfrac1B\sum_i S_\epsilon(\hat S_i, S_i) + \lambda\, \mathrm{mean}_{(i, j)}
              \bigl(S_\epsilon(S_i, S_j) - \lVert z_i - z_j \rVert^2\bigr)^2

    with the Sinkhorn divergence and at most ``pairs`` pairs of the batch.

    Args:
        features, code: dimension d of a point, length l of a code.
        set_size: points of a decoded set.
        width, depth, heads: of the attention on ``Linear(z)`` seen as ``set_size`` tokens.
        weight, pairs: lambda, and how many pairs it is taken on.
        eps: entropic weight, in units of the mean squared distance of the points.

    Raises:
        ValueError: for sets or samples of another size.

    Source: Haviv et al., "Wasserstein Wormhole: scalable optimal transport distance with transformers", ICML 2024, as
    the baseline of Fishman et al., "Generative distribution embeddings", NeurIPS 2025.

    Examples:
        >>> WormholeDecoder(2, 4, set_size=8, width=16).sample(torch.zeros(3, 4), 8).shape
        torch.Size([3, 8, 2])
    """

    def __init__(
        self,
        features: int,
        code: int,
        *,
        set_size: int,
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
        weight: float = 0.5,
        pairs: int = 10,
        eps: float = 0.05,
    ) -> None:
        super().__init__()
        check_number("set_size", set_size, low=1, integer=True)
        check_number("depth", depth, low=1, integer=True)
        check_number("weight", weight, low=0)
        check_number("pairs", pairs, low=1, integer=True)
        check_number("eps", eps, low=0, open_low=True)
        self.features, self.code, self.set_size, self.width = features, code, set_size, width
        self.weight, self.pairs, self.eps = weight, pairs, eps
        self.tokens = nn.Linear(code, set_size * width)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(depth))
        self.out = nn.Linear(width, features)

    def decode(self, z: Float[Tensor, "batch code"]) -> Float[Tensor, "batch set_size features"]:
        """Return the set of every code."""
        check_codes(z, self.code)
        h = self.tokens(z).unflatten(-1, (self.set_size, self.width))
        for block in self.blocks:
            h = block(h)
        return self.out(h)

    def loss(
        self,
        x: Float[Tensor, "batch set_size features"],
        z: Float[Tensor, "batch code"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """Return the error of the decoded sets and, of some pairs, that of the codes' squared distances."""
        check_points(x, z, (self.features,), self.code)
        if x.shape[1] != self.set_size:
            raise ValueError(f"this decoder is made for sets of {self.set_size} points, got {x.shape[1]}")
        loss = sinkhorn_divergence(self.decode(z), x, share=self.eps).mean()
        if self.weight == 0 or len(x) < 2:
            return loss
        i, j = torch.triu_indices(len(x), len(x), offset=1, device=x.device)
        chosen = torch.rand(len(i), generator=generator, device=x.device).topk(min(self.pairs, len(i))).indices
        i, j = i[chosen], j[chosen]
        apart = sinkhorn_divergence(x[i], x[j], share=self.eps)
        return loss + self.weight * (apart - (z[i] - z[j]).square().sum(-1)).square().mean()

    @torch.no_grad()
    def sample(
        self, z: Float[Tensor, "batch code"], n: int, generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch set_size features"]:
        """Return the decoded set; ``n`` must be its size."""
        if n != self.set_size:
            raise ValueError(
                f"this decoder gives sets of {self.set_size} points and cannot draw {n}; use a conditional generator, "
                "such as ConditionalDDPM, for sets of any size"
            )
        return self.decode(z)
