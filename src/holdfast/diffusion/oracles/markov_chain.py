r"""A Markov chain, and the exact answer of a masked model trained on it."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holdfast.core.checks import check_finite, check_number
from holdfast.diffusion.draws import categorical

__all__ = ["ExactChainDenoiser", "MarkovChain"]


class MarkovChain:
    r"""Sequences of tokens 0 to V - 1 in which each depends on the one before: :math:`p(x) = \pi(x_1) \prod_l
    P(x_{l-1}, x_l)`.

    Args:
        transition: P, rows sum to 1.
        initial: law of the first token; the stationary law when omitted.

    Raises:
        ValueError: for entries that are negative or not finite, rows that do not sum to 1 within 1e-6, or shapes
            that do not fit.

    Examples:
        >>> chain = MarkovChain.sticky(3, 0.8)
        >>> chain.sample(2, 5, torch.Generator().manual_seed(0)).shape
        torch.Size([2, 5])
    """

    def __init__(
        self, transition: Float[Tensor, "vocab vocab"], initial: Float[Tensor, " vocab"] | None = None
    ) -> None:
        if transition.ndim != 2 or transition.shape[0] != transition.shape[1]:
            raise ValueError(f"transition must have shape (vocab, vocab), got {tuple(transition.shape)}")
        self.transition = _as_laws("transition", transition)
        self.initial = self._stationary() if initial is None else _as_laws("initial", initial)
        if self.initial.shape != transition.shape[:1]:
            raise ValueError(f"initial must have shape ({len(transition)},), got {tuple(self.initial.shape)}")

    @classmethod
    def sticky(cls, vocab: int, stay: float) -> MarkovChain:
        """Return the chain that keeps its token with probability ``stay`` and else moves to any other alike.

        Examples:
            >>> MarkovChain.sticky(3, 0.5).transition[0].tolist()
            [0.5, 0.25, 0.25]
        """
        check_number("vocab", vocab, low=2, integer=True)
        check_number("stay", stay, low=0, high=1)
        eye = torch.eye(vocab, dtype=torch.float64)
        return cls(stay * eye + (1 - stay) / (vocab - 1) * (1 - eye))

    @property
    def vocab(self) -> int:
        """Number of tokens V."""
        return len(self.transition)

    def _stationary(self) -> Tensor:
        """Left null vector of P - 1, normalised."""
        v = self.vocab
        system = torch.cat([self.transition.T - torch.eye(v, dtype=torch.float64), torch.ones(1, v).double()])
        right = torch.zeros(v + 1, 1, dtype=torch.float64)
        right[-1] = 1
        return torch.linalg.lstsq(system, right).solution[:, 0].clamp_min(0)

    def sample(self, n: int, length: int, generator: torch.Generator | None = None) -> Int[Tensor, "n length"]:
        """Draw sequences."""
        check_number("n", n, low=1, integer=True)
        check_number("length", length, low=1, integer=True)
        x = [categorical(self.initial.expand(n, -1), generator=generator)]
        for _ in range(length - 1):
            x.append(categorical(self.transition[x[-1]], generator=generator))
        return torch.stack(x, 1)

    def log_prob(self, tokens: Int[Tensor, "batch length"]) -> Float[Tensor, " batch"]:
        """Log-probability of whole sequences, in nats."""
        steps = self.transition.log()[tokens[:, :-1], tokens[:, 1:]]
        return self.initial.log()[tokens[:, 0]] + steps.sum(1)

    def bigrams(self, length: int) -> Float[Tensor, "vocab vocab"]:
        """Law of two neighbouring tokens at a uniformly chosen place of a sequence of ``length`` tokens."""
        check_number("length", length, low=2, integer=True)
        here, total = self.initial, torch.zeros_like(self.transition)
        for _ in range(length - 1):
            total += here[:, None] * self.transition
            here = here @ self.transition
        return total / (length - 1)

    def entropy(self, length: int) -> float:
        """Entropy of a sequence of ``length`` tokens, in nats: the least a model can reach on it.

        Examples:
            >>> round(MarkovChain.sticky(4, 0.25).entropy(3), 4)  # independent and uniform: 3 log 4
            4.1589
        """
        first = float(torch.special.entr(self.initial).sum())
        if length == 1:
            return first
        pairs = (length - 1) * self.bigrams(length)
        return first - float(torch.xlogy(pairs, self.transition).sum())


def _as_laws(name: str, p: Tensor) -> Tensor:
    check_finite(name, p)
    p = p.detach().double().cpu()
    sums = p.sum(-1)
    if float(p.min()) < 0 or float((sums - 1).abs().max()) > 1e-6:
        raise ValueError(
            f"{name} must hold probabilities that sum to 1 within 1e-6, got a smallest entry of {float(p.min()):g} "
            f"and sums from {float(sums.min()):.8g} to {float(sums.max()):.8g}"
        )
    return p / sums[..., None]


class ExactChainDenoiser:
    r"""The token model that knows the chain: the law of every hidden token given the visible ones.

    By the Markov property only the nearest visible tokens on both sides matter. With a at distance d to the left
    and b at distance e to the right,

    .. math:: P(x_l = k \mid \text{visible}) \propto (P^d)_{ak} (P^e)_{kb},

    with :math:`\pi P^{l-1}` in place of the first factor where nothing is visible to the left, and 1 in place of the
    second where nothing is to the right. It equals forward-backward with missing observations, for the whole batch
    in two look-ups. It does not read the time: the optimum of a masked model has none in it.

    Args:
        transition: P (vocab, vocab), or a :class:`MarkovChain`.
        initial: law of the first token; the stationary law when omitted.
        length: longest sequence; (length + 1) powers of P are kept.

    Raises:
        ValueError: as :class:`MarkovChain`, and for sequences longer than ``length``.

    Source: Zheng et al., "Masked Diffusion Models are Secretly Time-Agnostic Masked Models and Exploit Inaccurate
    Categorical Sampling", ICLR 2025 (the optimum without time).

    Examples:
        >>> model = ExactChainDenoiser(torch.tensor([[0.9, 0.1], [0.1, 0.9]]))
        >>> model(torch.tensor([[0, 2, 1]])).exp()[0, 1].tolist()  # between a 0 and a 1: either, by symmetry
        [0.5, 0.5]
    """

    time_input = False

    def __init__(
        self,
        transition: Float[Tensor, "vocab vocab"] | MarkovChain,
        initial: Float[Tensor, " vocab"] | None = None,
        *,
        length: int = 64,
    ) -> None:
        self.chain = transition if isinstance(transition, MarkovChain) else MarkovChain(transition, initial)
        self.length = int(check_number("length", length, low=1, integer=True))
        powers = [torch.eye(self.chain.vocab, dtype=torch.float64)]
        marginals = [self.chain.initial]
        for _ in range(length):
            powers.append(powers[-1] @ self.chain.transition)
            marginals.append(marginals[-1] @ self.chain.transition)
        v = self.chain.vocab
        # Row V of the left table is "nothing visible": the marginal; column V of the right one is 1.
        nothing_left = torch.stack(marginals)[:, None]
        self._left = torch.cat([torch.stack(powers), nothing_left], 1).log()
        nothing_right = torch.ones(length + 1, 1, v, dtype=torch.float64)
        self._right = torch.cat([torch.stack(powers).mT, nothing_right], 1).log()

    def __call__(
        self, tokens: Int[Tensor, "batch length"], t: Float[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch length vocab"]:
        """Return log-probabilities; ids of V and above are hidden. Visible positions are certain of their token."""
        places = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        return self.at(tokens, t, places)

    def at(
        self,
        tokens: Int[Tensor, "batch length"],
        t: Float[Tensor, " batch"] | None,
        positions: Int[Tensor, "batch k"],
    ) -> Float[Tensor, "batch k vocab"]:
        """Return the log-probabilities of some positions alone."""
        length, v = tokens.shape[1], self.chain.vocab
        if length > self.length:
            raise ValueError(
                f"this oracle was made for at most {self.length} tokens, got {length}; give length={length}"
            )
        seen = tokens < v
        place = torch.arange(length, device=tokens.device).expand_as(tokens)
        left = torch.where(seen, place, -1).cummax(1)[0].gather(1, positions)
        right = torch.where(seen, place, length).flip(1).cummin(1)[0].flip(1).gather(1, positions)
        # Where nothing is to the left the first token's law has made as many steps as the position says.
        before = torch.where(left < 0, v, tokens.gather(1, left.clamp_min(0)))
        after = torch.where(right == length, v, tokens.gather(1, right.clamp_max(length - 1)))
        distance = torch.where(left < 0, positions, positions - left)
        remaining = torch.where(right == length, 0, right - positions)
        joint = self._left.to(tokens.device)[distance, before] + self._right.to(tokens.device)[remaining, after]
        return joint.log_softmax(-1)
