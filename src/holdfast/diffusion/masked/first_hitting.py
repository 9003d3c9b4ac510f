r"""First-hitting sampling of masked diffusion: one reveal at a time, its time drawn in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holdfast.core.checks import check_choice, check_number
from holdfast.core.progress import ProgressBar
from holdfast.diffusion.draws import gumbel_argmax, random_bits, uniform_open
from holdfast.diffusion.masked.model import TokenModel, logits_at, reads_time, restricted_log_probs, start_tokens
from holdfast.diffusion.masked.schedules import LinearMask, MaskSchedule, check_mask_schedule
from holdfast.diffusion.samples import Samples

__all__ = ["FirstHittingSampler", "hitting_times"]


def hitting_times(
    n: Int[Tensor, " batch"], schedule: MaskSchedule, generator: torch.Generator | None = None
) -> Float[Tensor, "batch most"]:
    r"""Times at which the hidden tokens of every row are revealed, latest first.

    With n hidden tokens at time :math:`\tau_n` none is revealed before s with probability
    :math:`\bigl((1 - \alpha_s)/(1 - \alpha_{\tau_n})\bigr)^n`, so with :math:`u \sim U(0, 1)`

    .. math:: \tau_{n-1} = \alpha^{-1}\bigl(1 - u^{1/n} (1 - \alpha_{\tau_n})\bigr).

    Args:
        n: hidden tokens of each row at time 1.
        schedule: gives alpha and its inverse.
        generator: source of randomness, on the device of ``n``.

    Returns:
        Row b holds ``n[b]`` falling times, then zeros, up to the largest n.

    Source: Zheng et al., "Masked Diffusion Models are Secretly Time-Agnostic Masked Models and Exploit Inaccurate
    Categorical Sampling", ICLR 2025 (first hitting).

    Examples:
        >>> tau = hitting_times(torch.tensor([3, 1]), LinearMask())
        >>> tau.shape, bool((tau[0].diff() < 0).all()), tau[1, 1:].tolist()
        (torch.Size([2, 3]), True, [0.0, 0.0])
    """
    most = int(n.max())
    left = n[:, None] - torch.arange(most, device=n.device)
    u = uniform_open((len(n), most), generator=generator, device=n.device)
    # log(1 - alpha) of the successive times, from that of time 1 on.
    start = torch.log1p(-schedule.alpha(u.new_ones(())))
    log_hidden = start + (u.log() / left.clamp_min(1)).cumsum(1)
    return torch.where(left > 0, schedule.alpha_inv(-torch.expm1(log_hidden)), 0.0)


@dataclass(frozen=True)
class FirstHittingSampler:
    r"""Masked diffusion with infinitely many steps, at one network call per token: exact.

    The next token to be revealed is uniform among the n hidden, the time of its reveal has a closed form
    (:func:`hitting_times`), and its value is drawn from the network's output for it alone:

    1. start with all tokens hidden, :math:`\tau = 1`, n = L;
    2. draw :math:`\tau_{n-1}` and a hidden position of every row; call the network on :math:`(x_n, \tau_{n-1})`;
    3. draw the position's token from :math:`\mu`; n falls by 1; repeat until none is hidden.

    L calls and L draws of V categories per row replace the N calls and N times as many draws of
    :class:`AncestralMaskedSampler`, whose law tends to this one as N grows. Every row draws its own positions; rows
    with prompts of different lengths have a number n each.

    With ``calls`` below L the reveals are split into that many groups of nearly equal size, which are drawn from one
    output of the network: faster, and no longer exact. Two refinements of that:

    * ``order=2`` extrapolates the log-probabilities linearly in the time, from the starts :math:`\tau^{(j-1)}` and
      :math:`\tau^{(j)}` of the last two groups to the token's own :math:`\tau`, at most as far as the two are apart;
    * ``corrector`` calls the network again at the end of the group, with the half of it that was revealed last hidden
      again, and draws that half anew from the mean of the two log-probabilities. At most doubles the calls.

    Args:
        calls: groups; ``None`` for one call per token.
        schedule: linear when omitted; matters only to models that read the time, and to ``order=2``.
        order: 1, or 2 to extrapolate.
        corrector: draw half of each group again.
        draw_dtype: in which noise is drawn and added.
        temperature, top_p: of the tokens' law, see ``restricted_log_probs``.

    Raises:
        ValueError: for calls below 1, an order other than 1 and 2, a schedule that does not fall from 1 to 0, or
            numbers out of range.

    Source: Zheng et al., "Masked Diffusion Models are Secretly Time-Agnostic Masked Models and Exploit Inaccurate
    Categorical Sampling", ICLR 2025. The weights of the two refinements are our reading.

    Examples:
        >>> def model(tokens, t=None):
        ...     return torch.zeros(*tokens.shape, 5)
        >>> out = FirstHittingSampler().sample(model, batch=2, length=8, mask_id=5)
        >>> bool((out.x < 5).all()), out.calls, out.draws
        (True, 8, 16)
    """

    calls: int | None = None
    schedule: MaskSchedule = field(default_factory=LinearMask)
    order: Literal[1, 2] = 1
    corrector: bool = False
    draw_dtype: torch.dtype = torch.float64
    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.calls is not None:
            check_number("calls", self.calls, low=1, integer=True)
        check_mask_schedule(self.schedule)
        check_choice("order", self.order, (1, 2))
        random_bits(self.draw_dtype)
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
            model: see :class:`TokenModel`; with a method ``at`` only the logits that are needed are computed.
            batch, length: of the samples.
            mask_id: the mask symbol, outside the model's vocabulary.
            generator: source of randomness, on ``device``.
            prompt: tokens to keep, with ``mask_id`` where to fill; one for all rows, or one per row.
            progress: show a bar.
            device: the generator's when omitted.

        Returns:
            ``draws`` counts draws of V categories: one per hidden token, and one per token drawn again.

        Raises:
            ValueError: for more calls than tokens, a ``mask_id`` inside the vocabulary, a prompt of another shape, or
                logits that leave a hidden position no token.
        """
        if self.calls is not None and self.calls > length:
            raise ValueError(f"calls must be at most the length {length}: every call reveals a token; got {self.calls}")
        device = generator.device if device is None and generator is not None else device
        x, hidden = start_tokens(batch, length, mask_id, prompt, device)
        n = hidden.sum(1)
        if int(n.max()) == 0:
            return Samples(x, 0, 0)
        most = int(n.max())
        groups = min(self.calls or length, most)
        # The order in which the positions are first hit: a uniform permutation of each row's hidden ones.
        scores = torch.rand(x.shape, generator=generator, device=x.device, dtype=torch.float64)
        hits = scores.masked_fill(~hidden, math.inf).argsort(1)[:, :most]
        timed = reads_time(model) or self.order == 2
        tau = hitting_times(n, self.schedule, generator) if timed else scores.new_zeros(hits.shape)
        earlier: tuple[Tensor, Tensor] | None = None
        calls = draws = 0
        with ProgressBar("sampling", total=groups, enabled=progress, measure=None) as bar:
            for j in range(groups):
                first, last = n * j // groups, n * (j + 1) // groups
                # The next group's output is what its extrapolation starts from.
                ahead = n * min(j + self.order, groups) // groups
                k, inside = _span(first, ahead)
                logits = logits_at(model, x, _at(tau, first, model), hits.gather(1, k), mask_id)
                now = inside & (k < last[:, None])
                row, column = now.nonzero(as_tuple=True)
                place = hits[row, k[row, column]]
                log_p = logits[row, column].to(self.draw_dtype).log_softmax(-1)
                if earlier is not None:
                    past, start = earlier
                    begin = tau[row, first[row]]
                    step = tau[row, start[row]] - begin
                    # A row with fewer tokens than groups has groups without any: nothing to extrapolate over.
                    weight = torch.where(step > 0, (begin - tau[row, k[row, column]]) / step, 0.0).clamp(0, 1)
                    log_p = _extrapolate(log_p, past[row, k[row, column] - start[row]], weight)
                if self.order == 2:
                    earlier = logits, first
                x[row, place] = self._draw(log_p, generator)
                calls += 1
                draws += len(row)
                middle = first + (last - first + 1) // 2
                late = k[row, column] >= middle[row]
                if self.corrector and bool(late.any()):
                    row, column, place, log_p = row[late], column[late], place[late], log_p[late]
                    x[row, place] = mask_id
                    again = logits_at(model, x, _at(tau, middle, model), hits.gather(1, k), mask_id)
                    x[row, place] = self._draw(_mean(log_p, again[row, column]), generator)
                    calls += 1
                    draws += len(row)
                bar.tick(j + 1)
        return Samples(x, calls, draws)

    def _draw(self, log_p: Tensor, generator: torch.Generator | None) -> Tensor:
        kept = restricted_log_probs(log_p, self.temperature, self.top_p)
        return gumbel_argmax(kept, dtype=self.draw_dtype, generator=generator)


def _span(first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers first, ..., last - 1 of every row, padded to the longest, and which are no padding."""
    width = int((last - first).max())
    k = first[:, None] + torch.arange(width, device=first.device)
    inside = k < last[:, None]
    return torch.where(inside, k, 0), inside


def _at(tau: Tensor, k: Tensor, model: TokenModel) -> Tensor | None:
    """Time of reveal ``k`` of every row, for a model that reads it."""
    if not reads_time(model):
        return None
    return tau.gather(1, k.clamp_max(tau.shape[1] - 1)[:, None])[:, 0].float()


def _extrapolate(now: Tensor, past_logits: Tensor, weight: Tensor) -> Tensor:
    """Log-probabilities moved on from the earlier call's; tokens that either call excludes stay as they are now."""
    past = past_logits.to(now.dtype).log_softmax(-1)
    moved = now + weight.to(now.dtype)[:, None] * (now - past)
    return torch.where(now.isfinite() & past.isfinite(), moved, now).log_softmax(-1)


def _mean(log_p: Tensor, logits: Tensor) -> Tensor:
    """Mean of two log-probabilities; where they have no token in common, the newer."""
    newer = logits.to(log_p.dtype).log_softmax(-1)
    mean = (log_p + newer) / 2
    return torch.where(mean.amax(-1, keepdim=True).isfinite(), mean, newer)
