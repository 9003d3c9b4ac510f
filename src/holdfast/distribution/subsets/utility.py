"""What a subset is worth, in view of the ground set it is taken from."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from holdfast.core.checks import check_choice, check_number
from holdfast.nn.feed_forward import feed_forward
from holdfast.nn.sets import PooledSetCode

__all__ = ["BACKGROUNDS", "Background", "SubsetUtility", "make_subset_utility"]

Background = Literal["none", "add", "linear", "concat", "attention"]
BACKGROUNDS: tuple[Background, ...] = ("none", "add", "linear", "concat", "attention")


class SubsetUtility(nn.Module):
    r"""A score of subsets S of a ground set V, invariant to the order of V.

    With the pooled codes :math:`r_S` and :math:`r_V` of the same features:

    .. math:: F = \mathrm{head}(r_S) \ (\text{none}),\quad \mathrm{head}(r_S + r_V) \ (\text{add}),\quad
              \mathrm{head}(\mathrm{relu}(A r_S + B r_V)) \ (\text{linear}),\quad
              \mathrm{head}([r_S\,;\,r_V]) \ (\text{concat})

    ``"attention"`` is linear with :math:`r_V` read by the query :math:`r_S`. ``"add"`` has as many parameters as
    ``"none"``, ``"linear"`` :math:`2h^2 + h` more. ``"none"`` sees the elements of S only.

    Args:
        code: features and pool.
        head: from h (``"concat"``: 2h) numbers to one.
        width: h, the features that ``code.phi`` gives.
        background: how V takes part.
        relative: divide sums by the size of V, so that codes of small and large ground sets compare.

    Source: Xie et al., "Enhancing neural subset selection: integrating background information into set
    representations", ICLR 2024, section 3; ``"none"``: Ou et al. (EquiVSet), NeurIPS 2022.

    Examples:
        >>> utility = make_subset_utility(nn.Linear(2, 16), 16)
        >>> utility(torch.zeros(3, 5, 2), torch.ones(3, 4, 5, dtype=torch.bool)).shape
        torch.Size([3, 4])
    """

    def __init__(
        self,
        code: PooledSetCode,
        head: nn.Module,
        *,
        width: int,
        background: Background = "linear",
        relative: bool = True,
    ) -> None:
        super().__init__()
        self.background: Background = check_choice("background", background, BACKGROUNDS)
        check_number("width", width, low=1, integer=True)
        self.code, self.head, self.relative = code, head, relative
        linear = background in ("linear", "attention")
        self.of_subset = nn.Linear(width, width, bias=False) if linear else nn.Identity()
        self.of_ground = nn.Linear(width, width) if linear else nn.Identity()
        self.query = nn.Linear(width, width) if background == "attention" else nn.Identity()
        self.key = nn.Linear(width, width, bias=False) if background == "attention" else nn.Identity()

    def features(self, V: Shaped[Tensor, "batch elements *shape"]) -> Float[Tensor, "batch elements width"]:
        """Return phi of every element: what all scores of subsets of ``V`` are made of."""
        return self.code.phi(V)

    def ground(
        self, h: Float[Tensor, "batch elements width"], valid: Bool[Tensor, "batch elements"]
    ) -> Float[Tensor, "batch 1 width"]:
        """Return the code of the whole ground set; computed once, whatever the number of subsets."""
        return self._pooled(h, valid.unsqueeze(1), h, valid)

    def score(
        self,
        h: Float[Tensor, "batch elements width"],
        masks: Shaped[Tensor, "batch subsets elements"],
        valid: Bool[Tensor, "batch elements"],
    ) -> Float[Tensor, "batch subsets"]:
        """Return F of every subset from the features of the ground set."""
        if masks.ndim != 3 or masks.shape[::2] != valid.shape:
            batch, n = valid.shape
            raise ValueError(f"masks must have shape ({batch}, subsets, {n}), got {tuple(masks.shape)}")
        masks = masks * valid.unsqueeze(1)
        # Pooling is linear: a linear layer before the pool costs n products for a ground set, after it one per subset.
        if self.background in ("linear", "attention"):
            subset = self._pooled(h, masks, self.of_subset(h), valid)
            if self.background == "attention":
                ground = self._attended(h, self._pooled(h, masks, h, valid), valid)
            else:
                ground = self.ground(h, valid)
            return self.head(torch.relu(subset + self.of_ground(ground))).squeeze(-1)
        first, rest = self._first_layer()
        if first is not None and self.background in ("none", "add"):
            code = self._pooled(h, masks, functional.linear(h, first.weight), valid)
            if self.background == "add":
                code = code + functional.linear(self.ground(h, valid), first.weight)
            return rest(code if first.bias is None else code + first.bias).squeeze(-1)
        subset = self._pooled(h, masks, h, valid)
        if self.background == "add":
            subset = subset + self.ground(h, valid)
        elif self.background == "concat":
            subset = torch.cat([subset, self.ground(h, valid).expand_as(subset)], dim=-1)
        return self.head(subset).squeeze(-1)

    def _first_layer(self) -> tuple[nn.Linear | None, nn.Module]:
        """Return the head in two, where it is a sequence that begins with a linear layer."""
        if isinstance(self.head, nn.Sequential) and isinstance(first := self.head[0], nn.Linear):
            return first, self.head[1:]
        return None, self.head

    def _pooled(self, h: Tensor, masks: Tensor, values: Tensor, valid: Tensor) -> Tensor:
        if self.code.pool == "sum" and self.relative:
            values = values / valid.sum(1).view(-1, 1, 1)
        return self.code.pooled(h, masks, values)

    def _attended(self, h: Tensor, subset: Tensor, valid: Tensor) -> Tensor:
        logits = self.query(subset) @ self.key(h).transpose(1, 2) / h.shape[-1] ** 0.5
        return logits.masked_fill(~valid.unsqueeze(1), -torch.inf).softmax(-1) @ h

    def forward(
        self,
        V: Shaped[Tensor, "batch elements *shape"],
        masks: Shaped[Tensor, "batch subsets elements"],
        valid: Bool[Tensor, "batch elements"] | None = None,
    ) -> Float[Tensor, "batch subsets"]:
        """Return F(S, V) for every mask; elements where ``valid`` is false count as absent."""
        if V.ndim < 2 or V.shape[1] == 0:
            raise ValueError(f"ground sets must have shape (batch, elements, ...), got {tuple(V.shape)}")
        if valid is None:
            valid = torch.ones(V.shape[:2], dtype=torch.bool, device=V.device)
        return self.score(self.features(V), masks, valid)


def make_subset_utility(
    phi: nn.Module,
    width: int,
    *,
    background: Background = "linear",
    pool: Literal["sum", "mean", "attention"] = "sum",
    head_width: int = 500,
    head_layers: int = 2,
) -> SubsetUtility:
    """Return a utility whose head is a perceptron with ReLU.

    Args:
        phi: from elements to ``width`` features.
        width: h.
        background, pool: see :class:`SubsetUtility` and :class:`holdfast.nn.PooledSetCode`.
        head_width, head_layers: of the perceptron.

    Examples:
        >>> sizes = {b: sum(p.numel() for p in make_subset_utility(nn.Linear(2, 8), 8, background=b).parameters())
        ...          for b in ("none", "add", "linear")}
        >>> sizes["add"] - sizes["none"], sizes["linear"] - sizes["none"]
        (0, 136)
    """
    check_choice("background", background, BACKGROUNDS)
    inputs = 2 * width if background == "concat" else width
    head = feed_forward(inputs, head_width, 1, layers=head_layers, activation=nn.ReLU)
    return SubsetUtility(PooledSetCode(phi, pool, width=width), head, width=width, background=background)
