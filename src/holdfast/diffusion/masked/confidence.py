r"""Confidence sampling: fill every hole at once, keep the confident tokens, hide the others again."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from holdfast.core.checks import check_choice, check_number
from holdfast.core.progress import ProgressBar
from holdfast.diffusion.draws import gumbel, gumbel_argmax
from holdfast.diffusion.masked.masking import hidden_count, lowest
from holdfast.diffusion.masked.model import TokenModel, reads_time, restricted_log_probs, start_tokens, token_logits
from holdfast.diffusion.samples import Samples

__all__ = ["ConfidenceSampler", "HidingSchedule", "hidden_counts", "hide_least_confident"]

HidingSchedule = Literal["cosine", "linear"]
_RATIOS: dict[str, Callable[[Tensor], Tensor]] = {
    "cosine": lambda s: torch.cos(math.pi / 2 * s),
    "linear": lambda s: 1 - s,
}


def hidden_counts(
    n: int | Int[Tensor, " batch"], steps: int, schedule: HidingSchedule = "cosine", minimum: int = 0
) -> Int[Tensor, "steps *batch"]:
    r"""How many tokens stay hidden after each of N steps: :math:`\max(m, \lceil n\, r((s + 1) / N) \rceil)`, with
    :math:`r(x) = \cos(\pi x / 2)` or :math:`1 - x`.

    Args:
        n: hidden tokens at the start, of all rows or of each.
        steps: N.
        schedule: ``"cosine"`` or ``"linear"``.
        minimum: m, tokens that are never shown; 0 unless a method keeps some.

    Raises:
        ValueError: for an unknown schedule, steps below 1, or a negative minimum.

    Examples:
        >>> hidden_counts(16, 4, "cosine").tolist(), hidden_counts(16, 4, "linear").tolist()
        ([15, 12, 7, 0], [12, 8, 4, 0])
    """
    check_number("steps", steps, low=1, integer=True)
    check_number("minimum", minimum, low=0, integer=True)
    check_choice("schedule", schedule, tuple(_RATIOS))
    total = torch.as_tensor(n)
    ratio = _RATIOS[schedule](torch.arange(1, steps + 1, dtype=torch.float64, device=total.device) / steps)
    ratio[-1] = 0.0  # cos(pi/2) is not quite 0
    counts = hidden_count(total, ratio.view(-1, *[1] * total.ndim))
    return counts.maximum(total.clamp_max(minimum))


def hide_least_confident(
    confidence: Float[Tensor, "batch length"],
    hidden: Bool[Tensor, "batch length"],
    n: int | Int[Tensor, " batch"],
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> Bool[Tensor, "batch length"]:
    r"""Mark the n least confident of the hidden positions, by :math:`c_l + \tau g_l` with Gumbel noise :math:`g`.

    Positions that are not hidden are known: their confidence is infinite. Where fewer than n are hidden, all of
    them stay so.

    Args:
        confidence: usually the log-probability of the token that was drawn at each position.
        hidden: where tokens were drawn.
        n: how many to hide again, of all rows or of each.
        temperature: :math:`\tau`, zero or larger; zero chooses by the confidence alone.
        generator: source of randomness.

    Raises:
        ValueError: for a negative temperature, shapes that differ, or NaN at a hidden position.

    Source: Chang, Zhang, Jiang, Liu, Freeman, "MaskGIT: Masked Generative Image Transformer", CVPR 2022.

    Examples:
        >>> sure = torch.tensor([[-3.0, -0.1, -1.0]])
        >>> hide_least_confident(sure, torch.tensor([[False, True, True]]), 1).tolist()
        [[False, False, True]]
    """
    check_number("temperature", temperature, low=0)
    if confidence.shape != hidden.shape or confidence.ndim != 2:
        raise ValueError(
            f"confidence and hidden must both have shape (batch, length), got {tuple(confidence.shape)} and "
            f"{tuple(hidden.shape)}"
        )
    if bool((confidence.isnan() & hidden).any()):
        raise ValueError("confidence must be a number at every hidden position, got nan")
    score = confidence.double()
    if temperature > 0:
        score = score + temperature * gumbel(score.shape, generator=generator, device=score.device)
    counts = torch.as_tensor(n, device=score.device).expand(len(score))
    return lowest(score.masked_fill(~hidden, math.inf), counts) & hidden


@dataclass(frozen=True)
class ConfidenceSampler:
    r"""Decode all hidden tokens in parallel, N times, each time hiding the least confident again.

    With n hidden positions at the start, step s = 0, ..., N - 1 draws a token at every hidden position, gives it the
    confidence :math:`\log p(\text{token}) + \tau_s g`, with the model's own p, Gumbel noise g and
    :math:`\tau_s = \tau\,(1 - (s + 1)/N)`, and hides the :math:`\lceil n\, r((s + 1)/N) \rceil` least confident
    again. Few network calls, but not the model's law: confident positions go first.

    Args:
        steps: N, network calls.
        schedule: ``"cosine"`` (few tokens first) or ``"linear"``: r, see :func:`hidden_counts`.
        choice_temperature: :math:`\tau`; zero chooses by the probability alone. Larger for more hidden positions.
        temperature: of the tokens' law; zero takes the most probable.
        top_p: share of the tokens' probability to draw from, in (0, 1].

    Raises:
        ValueError: for numbers out of range or an unknown schedule.

    Source: Chang, Zhang, Jiang, Liu, Freeman, "MaskGIT: Masked Generative Image Transformer", CVPR 2022; linear
    annealing of the choice as in Li, Chang, Mishra, Zhang, Katabi, Krishnan, "MAGE", CVPR 2023.

    Examples:
        >>> def model(tokens, t=None):
        ...     return torch.zeros(*tokens.shape, 5)
        >>> out = ConfidenceSampler(steps=3).sample(model, batch=2, length=8, mask_id=5)
        >>> out.x.shape, out.calls, bool((out.x < 5).all())
        (torch.Size([2, 8]), 3, True)
    """

    steps: int
    schedule: HidingSchedule = "cosine"
    choice_temperature: float = 4.5
    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        check_number("steps", self.steps, low=1, integer=True)
        check_choice("schedule", self.schedule, tuple(_RATIOS))
        check_number("choice_temperature", self.choice_temperature, low=0)
        check_number("temperature", self.temperature, low=0)
        check_number("top_p", self.top_p, low=0, high=1, open_low=True)

    @torch.no_grad()
    def sample(
        self,
        model: TokenModel,
        batch: int,
        length: int,
        mask_id: int,
        generator: torch.Generator | None = None,
        *,
        prompt: Int[Tensor, "*batch length"] | None = None,
        progress: bool = False,
        device: torch.device | str | None = None,
    ) -> Samples:
        """Fill every hidden position.

        Args:
            model: see :class:`holdfast.diffusion.masked.TokenModel`; one that reads the time gets the share of
                hidden positions, the time of the linear schedule.
            batch, length: of the samples.
            mask_id: the mask symbol, outside the model's vocabulary.
            generator: source of randomness, on ``device``.
            prompt: tokens to keep, with ``mask_id`` where to fill; one for all rows, or one per row.
            progress: show a bar.
            device: the generator's when omitted.

        Raises:
            ValueError: for a ``mask_id`` inside the vocabulary, a prompt of another shape, or logits that leave a
                hidden position no token.
        """
        device = generator.device if device is None and generator is not None else device
        x, hidden = start_tokens(batch, length, mask_id, prompt, device)
        counts = hidden_counts(hidden.sum(1), self.steps, self.schedule)
        draws = 0
        with ProgressBar("sampling", total=self.steps, enabled=progress, measure=None) as bar:
            for s in range(self.steps):
                t = hidden.double().mean(1) if reads_time(model) else None
                logits = token_logits(model, x, t, mask_id)[hidden]
                ids = gumbel_argmax(restricted_log_probs(logits, self.temperature, self.top_p), generator=generator)
                confidence = torch.zeros(x.shape, dtype=torch.float64, device=x.device)
                confidence[hidden] = logits.log_softmax(-1).gather(1, ids[:, None])[:, 0].double()
                x[hidden] = ids
                draws += len(ids)
                tau = self.choice_temperature * (1 - (s + 1) / self.steps)
                hidden = hide_least_confident(confidence, hidden, counts[s], tau, generator)
                x = x.masked_fill(hidden, mask_id)
                bar.tick(s + 1)
        return Samples(x, self.steps, draws)
