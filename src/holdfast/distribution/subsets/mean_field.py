"""Mean-field learning of a set energy from best subsets alone."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.func import functional_call

from holdfast.core.checks import check_choice, check_number
from holdfast.distribution.subsets.copula import CopulaBernoulli
from holdfast.distribution.subsets.model import SubsetModel, membership_loss, valid_or_all
from holdfast.distribution.subsets.recognition import RecognitionNetwork
from holdfast.distribution.subsets.size_rules import checked_sizes
from holdfast.distribution.subsets.utility import SubsetUtility

__all__ = ["MeanFieldSubsetModel"]


class MeanFieldSubsetModel(SubsetModel):
    r"""The law :math:`p(S \mid V) \propto e^{F(S, V)}` through its mean-field approximation, differentiable in F.

    One step of the fixed point moves independent probabilities q to

    .. math:: q_i \leftarrow \sigma\Bigl( E_{S \sim q}\bigl[ F(S \cup i, V) - F(S \setminus i, V) \bigr] \Bigr),

    the expectation from ``mc`` draws of S. A draw serves all elements (``"shared"``, n + 1 values of F), or every
    element has its own (``"separate"``, 2n values, as published). The mean is the same; with shared draws much of the
    noise is common to the elements, and their order is clearer. The cross-entropy of the last q against the best subset
    trains F. The first q is 1/2 (``"diffmf"``) or the guess of a recognition network (``"ind"``: independent entries,
    ``"copula"``: correlated ones), which maximises :math:`E_q F + H(q)` for F as it is. Each of the two parts has
    gradients from its own objective alone, so one Adam for both is two Adams.

    Args:
        utility: F.
        recogniser: needed for ``"ind"`` and ``"copula"``.
        mode: where the fixed point starts.
        mc: draws M of S per step.
        steps: of the fixed point.
        draws: ``"shared"`` or ``"separate"``.

    Source: Ou et al., "Learning neural set functions under the optimal subset oracle", NeurIPS 2022, algorithms 1 and
    2; with a utility that sees V, Xie et al., "Enhancing neural subset selection", ICLR 2024.

    Examples:
        >>> from torch import nn
        >>> from holdfast.distribution.subsets import make_subset_utility
        >>> model = MeanFieldSubsetModel(make_subset_utility(nn.Linear(2, 16), 16))
        >>> model.predict(torch.randn(3, 5, 2), size=2).sum(1)
        tensor([2, 2, 2])
    """

    def __init__(
        self,
        utility: SubsetUtility,
        recogniser: RecognitionNetwork | None = None,
        *,
        mode: Literal["diffmf", "ind", "copula"] = "diffmf",
        mc: int = 5,
        steps: int = 1,
        draws: Literal["shared", "separate"] = "shared",
    ) -> None:
        super().__init__()
        check_choice("draws", draws, ["shared", "separate"])
        check_choice("mode", mode, ["diffmf", "ind", "copula"])
        if (recogniser is None) != (mode == "diffmf"):
            raise ValueError(
                f"mode {mode!r} takes {'no recogniser' if mode == 'diffmf' else 'a recogniser'}, got "
                f"{'none' if recogniser is None else type(recogniser).__name__}"
            )
        if recogniser is not None and (recogniser.rank > 0) != (mode == "copula"):
            raise ValueError(f"mode {mode!r} needs a recogniser of the law {_LAWS[mode]!r}")
        self.utility, self.recogniser, self.mode = utility, recogniser, mode
        self.draws: Literal["shared", "separate"] = draws
        self.mc = int(check_number("mc", mc, low=1, integer=True))
        self.steps = int(check_number("steps", steps, low=1, integer=True))

    def gains(
        self,
        h: Float[Tensor, "batch elements width"],
        q: Float[Tensor, "batch elements"],
        valid: Bool[Tensor, "batch elements"],
        generator: torch.Generator | None = None,
        *,
        counted: Bool[Tensor, "batch elements"] | None = None,
    ) -> Float[Tensor, "batch elements"]:
        r"""Return an unbiased estimate of :math:`E_{S \sim q}[F(S \cup i, V) - F(S \setminus i, V)]` for every i.

        ``h`` are the features of the ground sets (:meth:`SubsetUtility.features`). Where only some elements are
        ``counted``, the others have gain 0 and cost nothing; the draws are the same.
        """
        n = q.shape[1]
        counted = valid if counted is None else counted & valid
        most = max(1, int(counted.sum(1).max()))
        which = counted.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
        one = torch.eye(n, dtype=torch.bool, device=q.device)[which].unsqueeze(1)
        shape = (len(q), self.mc, 1 if self.draws == "shared" else n, n)
        S = torch.rand(shape, generator=generator, device=q.device) < (q * valid)[:, None, None]
        if self.draws == "shared":
            value = self.utility.score(h, torch.cat([S, S ^ one], dim=2).flatten(1, 2), valid).unflatten(
                1, (-1, most + 1)
            )
            change = value[..., 1:] - value[..., :1]
            gain = torch.where((S & one).any(-1), -change, change)
        else:
            S = S.gather(2, which[:, None, :, None].expand(-1, self.mc, -1, n))
            value = self.utility.score(h, torch.cat([S | one, S & ~one], dim=2).flatten(1, 2), valid)
            with_i, without_i = value.unflatten(1, (self.mc, 2, most)).unbind(2)
            gain = with_i - without_i
        return torch.zeros_like(q, dtype=gain.dtype).scatter(1, which, gain.mean(1)) * counted

    def fixed_point(
        self,
        V: Shaped[Tensor, "batch elements *shape"],
        q: Float[Tensor, "batch elements"],
        valid: Bool[Tensor, "batch elements"] | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch elements"]:
        """Return q after ``steps`` steps of the fixed point."""
        valid = valid_or_all(V, valid)
        return self._logits(V, q, valid, generator).sigmoid() * valid

    def _logits(
        self,
        V: Tensor,
        q: Tensor,
        valid: Tensor,
        generator: torch.Generator | None,
        counted: Tensor | None = None,
    ) -> Tensor:
        h = self.utility.features(V)
        for _ in range(self.steps - 1):
            with torch.no_grad():  # the next step starts from probabilities without a gradient
                q = self.gains(h, q, valid, generator).sigmoid()
        return self.gains(h, q, valid, generator, counted=counted)

    def initial(
        self, V: Shaped[Tensor, "batch elements *shape"], valid: Bool[Tensor, "batch elements"]
    ) -> Float[Tensor, "batch elements"]:
        """Return the q that the fixed point starts from; no gradient."""
        if self.recogniser is None:
            return 0.5 * valid
        with torch.no_grad():
            return self.recogniser(V, valid).probs * valid

    def marginals(
        self,
        V: Shaped[Tensor, "batch elements *shape"],
        valid: Bool[Tensor, "batch elements"] | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch elements"]:
        """Return q at the end of the fixed point; 0 for padding."""
        valid = valid_or_all(V, valid)
        return self.fixed_point(V, self.initial(V, valid), valid, generator=generator)

    def energy_loss(
        self,
        V: Shaped[Tensor, "batch elements *shape"],
        S: Bool[Tensor, "batch elements"],
        valid: Bool[Tensor, "batch elements"] | None = None,
        *,
        counted: Bool[Tensor, "batch elements"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """Return the cross-entropy of the fixed point against S, whose gradient reaches the utility only."""
        valid = valid_or_all(V, valid)
        counted = valid if counted is None else counted & valid
        return membership_loss(self._logits(V, self.initial(V, valid), valid, generator, counted), S, counted)

    def elbo(
        self,
        V: Shaped[Tensor, "batch elements *shape"],
        valid: Bool[Tensor, "batch elements"] | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        r"""Return :math:`E_q F(S, V) + H(q)`, mean over sets, whose gradient reaches the recogniser only."""
        if self.recogniser is None:
            raise ValueError("mode 'diffmf' has no recogniser and no lower bound")
        valid = valid_or_all(V, valid)
        law: CopulaBernoulli = self.recogniser(V, valid)
        frozen = {k: p.detach() for k, p in self.utility.named_parameters()}
        value = functional_call(self.utility, frozen, (V, law.rsample(self.mc, generator), valid))
        return value.mean() + (law.entropy() * valid).sum() / len(V)

    def loss(
        self,
        V: Shaped[Tensor, "batch elements *shape"],
        S: Bool[Tensor, "batch elements"],
        valid: Bool[Tensor, "batch elements"] | None = None,
        *,
        counted: Bool[Tensor, "batch elements"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """Return the energy's loss, less the lower bound where there is a recogniser."""
        energy = self.energy_loss(V, S, valid, counted=counted, generator=generator)
        return energy if self.recogniser is None else energy - self.elbo(V, valid, generator=generator)

    @torch.no_grad()
    def greedy(
        self,
        V: Shaped[Tensor, "batch elements *shape"],
        size: int | Int[Tensor, " batch"],
        valid: Bool[Tensor, "batch elements"] | None = None,
    ) -> Bool[Tensor, "batch elements"]:
        """Return the subset that grows from none by the element of largest gain in F, up to ``size``."""
        return greedy_subset(self.utility, V, size, valid_or_all(V, valid))


_LAWS = {"ind": "independent", "copula": "copula"}


def gains_of_adding(
    utility: SubsetUtility, h: Tensor, chosen: Tensor, valid: Tensor
) -> Float[Tensor, "batch subsets elements"]:
    """Return F(S + i) - F(S) of every element i of every subset S; minus infinity for those of S and for padding."""
    n = chosen.shape[-1]
    eye = torch.eye(n, dtype=torch.bool, device=chosen.device)
    grown = torch.cat([chosen.unsqueeze(2), chosen.unsqueeze(2) | eye], dim=2)
    value = utility.score(h, grown.flatten(1, 2), valid).unflatten(1, (-1, n + 1))
    return (value[..., 1:] - value[..., :1]).masked_fill(chosen | ~valid.unsqueeze(1), -torch.inf)


def greedy_subset(
    utility: SubsetUtility, V: Tensor, size: int | Tensor | None, valid: Tensor
) -> Bool[Tensor, "batch elements"]:
    """Grow subsets by the largest gain, up to ``size`` or, without one, as long as some gain is positive."""
    h, chosen = utility.features(V), torch.zeros_like(valid)
    eye = torch.eye(V.shape[1], dtype=torch.bool, device=V.device)
    limit = valid.sum(1) if size is None else checked_sizes(size, valid)
    for step in range(int(limit.max())):
        best, which = gains_of_adding(utility, h, chosen.unsqueeze(1), valid).squeeze(1).max(1)
        go = (step < limit) & (best > 0 if size is None else torch.ones_like(limit, dtype=torch.bool))
        if not bool(go.any()):
            break
        chosen = chosen | (eye[which] & go.unsqueeze(1))
    return chosen
