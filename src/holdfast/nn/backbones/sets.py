"""Backbones for sets of vectors: DeepSets and set attention, both masked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from holdfast.core.checks import check_number
from holdfast.nn.attention import Attention, TransformerBlock
from holdfast.nn.standardize import Standardize

__all__ = ["DeepSets", "SetAttention"]


class DeepSets(nn.Module):
    r"""``rho(mean_i phi(x_i), max_i phi(x_i), log(1 + n))``: invariant to the order of the set and to padding.

    Mean and cardinality together carry the sum, for which the form is universal; the maximum adds a feature that
    does not wash out in large sets. An empty set has zero mean and maximum.

    Args:
        features: dimension d of an element.
        width: units of every layer, and ``out_dim``.
        depth: layers of ``phi``.
        mean, std: per feature.

    Source: Zaheer et al., "Deep sets", NeurIPS 2017, theorem 2; Qi et al., "PointNet", CVPR 2017 (maximum).

    Examples:
        >>> net = DeepSets(2, width=8, depth=1)
        >>> net((torch.zeros(3, 5, 2), torch.ones(3, 5, dtype=torch.bool))).shape
        torch.Size([3, 8])
    """

    def __init__(
        self, features: int, *, width: int, depth: int, mean: Sequence[float] = (), std: Sequence[float] = ()
    ) -> None:
        super().__init__()
        check_number("depth", depth, low=1, integer=True)
        self.out_dim = width
        self.standardize = Standardize(features, mean, std)
        layers: list[nn.Module] = []
        for i in range(depth):
            layers += [nn.Linear(features if i == 0 else width, width), nn.ReLU()]
        self.phi = nn.Sequential(*layers)
        self.rho = nn.Sequential(nn.Linear(2 * width + 1, width), nn.ReLU())

    def forward(
        self, x: tuple[Float[Tensor, "batch elements features"], Bool[Tensor, "batch elements"]]
    ) -> Float[Tensor, "batch out"]:
        """Return one row per set."""
        values, mask = x
        keep = mask.bool().unsqueeze(-1)
        values = torch.where(keep, values, torch.zeros_like(values))
        # phi ends in a ReLU, so a masked element (set to zero) never is the maximum unless the set is empty.
        phi = torch.where(keep, self.phi(self.standardize(values)), 0.0)
        count = keep.sum(dim=1).to(phi.dtype)
        mean = phi.sum(dim=1) / count.clamp_min(1.0)
        return self.rho(torch.cat([mean, phi.amax(dim=1), torch.log1p(count)], dim=1))


class SetAttention(nn.Module):
    """Transformer blocks over the elements, then one learned query that attends to them.

    Args:
        features: dimension d of an element.
        width, depth, heads: channels (also ``out_dim``), blocks, attention heads.
        mean, std: per feature.

    Source: Lee et al., "Set transformer", ICML 2019 (SAB and PMA with one seed).

    Examples:
        >>> net = SetAttention(2, width=8, depth=1, heads=2)
        >>> net((torch.zeros(3, 5, 2), torch.ones(3, 5, dtype=torch.bool))).shape
        torch.Size([3, 8])
    """

    def __init__(
        self,
        features: int,
        *,
        width: int,
        depth: int,
        heads: int,
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
    ) -> None:
        super().__init__()
        self.out_dim = width
        self.standardize = Standardize(features, mean, std)
        self.embed = nn.Linear(features, width)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(depth))
        self.seed = nn.Parameter(torch.empty(1, 1, width))
        nn.init.trunc_normal_(self.seed, std=0.02)
        self.pool_norm = nn.LayerNorm(width)
        self.pool = Attention(width, heads)
        self.norm = nn.LayerNorm(width)

    def forward(
        self, x: tuple[Float[Tensor, "batch elements features"], Bool[Tensor, "batch elements"]]
    ) -> Float[Tensor, "batch out"]:
        """Return one row per set."""
        values, mask = x
        mask = mask.bool()
        values = torch.where(mask.unsqueeze(-1), values, torch.zeros_like(values))
        tokens = self.embed(self.standardize(values))
        for block in self.blocks:
            tokens = block(tokens, mask)
        seed = self.seed.expand(tokens.shape[0], -1, -1)
        return self.norm(seed + self.pool(seed, self.pool_norm(tokens), mask)).squeeze(1)
