"""What a subset model is compared with: element scorers, a sequence of choices, and chance."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from holdfast.core.checks import check_number
from holdfast.distribution.subsets.mean_field import gains_of_adding, greedy_subset
from holdfast.distribution.subsets.model import SubsetModel, membership_loss, valid_or_all
from holdfast.distribution.subsets.size_rules import SizeRule
from holdfast.distribution.subsets.utility import SubsetUtility
from holdfast.nn.attention import TransformerBlock
from holdfast.nn.feed_forward import feed_forward
from holdfast.nn.sets import pooled_mean

__all__ = ["DeepSetScorer", "ProbabilisticGreedy", "RandomSubset", "SetTransformerScorer"]


class _Scorer(SubsetModel):
    """One logit per element."""

    def logits(self, V: Tensor, valid: Tensor) -> Tensor:
        raise NotImplementedError

    def loss(
        self,
        V: Shaped[Tensor, "batch elements *shape"],
        S: Bool[Tensor, "batch elements"],
        valid: Bool[Tensor, "batch elements"] | None = None,
        *,
        counted: Bool[Tensor, "batch elements"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """Return the cross-entropy of membership."""
        valid = valid_or_all(V, valid)
        return membership_loss(self.logits(V, valid), S, valid if counted is None else counted & valid)

    def marginals(
        self,
        V: Shaped[Tensor, "batch elements *shape"],
        valid: Bool[Tensor, "batch elements"] | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch elements"]:
        """Return the sigmoid of the logits; 0 for padding."""
        valid = valid_or_all(V, valid)
        return self.logits(V, valid).sigmoid() * valid


class DeepSetScorer(_Scorer):
    r"""A perceptron on every element joined with the mean of all: ``logit_i = FF([phi(x_i) ; mean_j phi(x_j)])``.

    Without ``context`` every element is judged alone.

    Source: Zaheer et al., "Deep sets", NeurIPS 2017.

    Examples:
        >>> DeepSetScorer(nn.Linear(2, 16), 16).predict(torch.randn(3, 5, 2), size=2).sum(1)
        tensor([2, 2, 2])
    """

    def __init__(self, phi: nn.Module, width: int, *, hidden: int = 500, layers: int = 2, context: bool = True) -> None:
        super().__init__()
        self.phi, self.context = phi, context
        self.layers = feed_forward(2 * width if context else width, hidden, 1, layers=layers, activation=nn.ReLU)

    def logits(
        self, V: Shaped[Tensor, "batch elements *shape"], valid: Bool[Tensor, "batch elements"]
    ) -> Float[Tensor, "batch elements"]:
        """Return one logit per element."""
        h = self.phi(V)
        if self.context:
            h = torch.cat([h, pooled_mean(h, valid.to(h.dtype)).unsqueeze(1).expand_as(h)], dim=-1)
        return self.layers(h).squeeze(-1)


class SetTransformerScorer(_Scorer):
    """Transformer blocks over the ground set, then one logit per element.

    Source: Lee et al., "Set transformer", ICML 2019.

    Examples:
        >>> SetTransformerScorer(nn.Linear(2, 16), 16).predict(torch.randn(3, 5, 2), size=2).sum(1)
        tensor([2, 2, 2])
    """

    def __init__(self, phi: nn.Module, width: int, *, blocks: int = 2, heads: int = 4) -> None:
        super().__init__()
        check_number("blocks", blocks, low=1, integer=True)
        self.phi = phi
        self.blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(blocks))
        self.last = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 1))

    def logits(
        self, V: Shaped[Tensor, "batch elements *shape"], valid: Bool[Tensor, "batch elements"]
    ) -> Float[Tensor, "batch elements"]:
        """Return one logit per element."""
        h = self.phi(V)
        for block in self.blocks:
            h = block(h, valid)
        return self.last(h).squeeze(-1)


class ProbabilisticGreedy(SubsetModel):
    r"""One element after the other, by a softmax over the gains in F and a stop of gain 0.

    .. math:: P(i \mid S) = \frac{e^{F(S \cup i) - F(S)}}{1 + \sum_{j \notin S} e^{F(S \cup j) - F(S)}}

    The loss is the negative log-likelihood of the best subset in a random order. Subsets are chosen greedily; the
    marginals are frequencies over ``mc`` drawn sequences.

    Source: Tschiatschek et al., "Differentiable submodular maximization", IJCAI 2018 (probabilistic greedy).

    Examples:
        >>> from holdfast.distribution.subsets import make_subset_utility
        >>> model = ProbabilisticGreedy(make_subset_utility(nn.Linear(2, 16), 16, background="none"))
        >>> model.predict(torch.randn(3, 5, 2), size=2).sum(1)
        tensor([2, 2, 2])
    """

    def __init__(self, utility: SubsetUtility, *, mc: int = 20) -> None:
        super().__init__()
        self.utility = utility
        self.mc = int(check_number("mc", mc, low=1, integer=True))

    def _log_probs(self, h: Tensor, chosen: Tensor, valid: Tensor) -> Tensor:
        """Return log-probabilities (batch, subsets, n + 1) of the next element or, last, of the end."""
        gain = gains_of_adding(self.utility, h, chosen, valid)
        return torch.cat([gain, torch.zeros_like(gain[..., :1])], dim=-1).log_softmax(-1)

    def loss(
        self,
        V: Shaped[Tensor, "batch elements *shape"],
        S: Bool[Tensor, "batch elements"],
        valid: Bool[Tensor, "batch elements"] | None = None,
        *,
        counted: Bool[Tensor, "batch elements"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """Return the negative log-likelihood of S in a random order; which elements count has no part in it."""
        valid = valid_or_all(V, valid)
        keys = torch.rand(S.shape, generator=generator, device=S.device).masked_fill(~S, 2.0)
        order = keys.argsort(1)
        rank, size = order.argsort(1), S.sum(1)
        t = torch.arange(int(size.max()) + 1, device=S.device)
        prefixes = (rank.unsqueeze(1) < t.view(1, -1, 1)) & S.unsqueeze(1)
        end = torch.full((len(S), 1), S.shape[1], device=S.device)
        target = torch.cat([order, end], dim=1)[:, : len(t)].where(t < size.unsqueeze(1), S.shape[1])
        log_p = self._log_probs(self.utility.features(V), prefixes, valid).gather(2, target.unsqueeze(2)).squeeze(2)
        return -(log_p.where(t <= size.unsqueeze(1), 0.0)).sum() / len(S)

    @torch.no_grad()
    def marginals(
        self,
        V: Shaped[Tensor, "batch elements *shape"],
        valid: Bool[Tensor, "batch elements"] | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch elements"]:
        """Return how often each element is in ``mc`` drawn subsets."""
        valid = valid_or_all(V, valid)
        h, n = self.utility.features(V), V.shape[1]
        chosen = torch.zeros(len(V), self.mc, n, dtype=torch.bool, device=V.device)
        going = torch.ones(len(V), self.mc, dtype=torch.bool, device=V.device)
        for _ in range(n):
            p = self._log_probs(h, chosen, valid).exp().flatten(0, 1)
            drawn = torch.multinomial(p, 1, generator=generator).view(len(V), self.mc)
            going = going & (drawn < n)
            if not bool(going.any()):
                break
            step = nn.functional.one_hot(drawn, n + 1)[..., :n].bool()
            chosen = chosen | (step & going.unsqueeze(-1))
        return chosen.float().mean(1)

    @torch.no_grad()
    def predict(
        self,
        V: Shaped[Tensor, "batch elements *shape"],
        size: int | Int[Tensor, " batch"] | None = None,
        rule: SizeRule | None = None,
        valid: Bool[Tensor, "batch elements"] | None = None,
        *,
        n_eval: int = 1,
        generator: torch.Generator | None = None,
    ) -> Bool[Tensor, "batch elements"]:
        """Return the greedy subset of that size, or, with neither size nor rule, up to the last positive gain."""
        if rule not in (None, "topk"):
            return super().predict(V, size, rule, valid, n_eval=n_eval, generator=generator)
        return greedy_subset(self.utility, V, size, valid_or_all(V, valid))


class RandomSubset(SubsetModel):
    """Chance: every element has a random number; the loss is 0 and has nothing to train.

    Examples:
        >>> RandomSubset().predict(torch.zeros(2, 5, 1), size=2).sum(1)
        tensor([2, 2])
    """

    def loss(
        self,
        V: Shaped[Tensor, "batch elements *shape"],
        S: Bool[Tensor, "batch elements"],
        valid: Bool[Tensor, "batch elements"] | None = None,
        *,
        counted: Bool[Tensor, "batch elements"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """Return 0."""
        return torch.zeros((), device=V.device)

    def marginals(
        self,
        V: Shaped[Tensor, "batch elements *shape"],
        valid: Bool[Tensor, "batch elements"] | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch elements"]:
        """Return uniform random numbers; 0 for padding."""
        valid = valid_or_all(V, valid)
        return torch.rand(valid.shape, generator=generator, device=valid.device) * valid
