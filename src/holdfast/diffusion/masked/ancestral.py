r"""Ancestral sampling of masked diffusion: small steps of time, each drawing for every hidden token."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from holdfast.core.checks import check_number
from holdfast.core.progress import ProgressBar
from holdfast.diffusion.draws import bernoulli, gumbel_argmax, random_bits
from holdfast.diffusion.masked.model import TokenModel, reads_time, restricted_log_probs, start_tokens, token_logits
from holdfast.diffusion.masked.schedules import LinearMask, MaskSchedule, check_mask_schedule
from holdfast.diffusion.samples import Samples

__all__ = ["AncestralMaskedSampler", "TwoStageMaskedSampler", "expected_nfe", "stay_probabilities"]

_AT_ONCE = 2**22
"""Largest number of Gumbel draws held at once."""


def expected_nfe(steps: int, length: int) -> float:
    r"""Expected network calls of the cached ancestral sampler, equal steps of the linear schedule:
    :math:`N\,(1 - (1 - 1/N)^L)`, the expected number of steps in which some token is revealed.

    Examples:
        >>> round(expected_nfe(1000, 1000), 1), round(expected_nfe(64, 1024), 1)
        (632.3, 64.0)
    """
    check_number("steps", steps, low=1, integer=True)
    check_number("length", length, low=1, integer=True)
    return -steps * math.expm1(length * math.log1p(-1 / steps)) if steps > 1 else 1.0


def stay_probabilities(schedule: MaskSchedule, steps: int) -> list[tuple[float, float]]:
    """Time before each of the equal steps from 1 to 0, and the probability that a hidden token stays hidden in it.

    Examples:
        >>> stay_probabilities(LinearMask(), 2)
        [(1.0, 0.5), (0.5, 0.0)]
    """
    t = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    hidden = 1 - schedule.alpha(t)
    hidden[-1] = 0.0
    return list(zip(t[:-1].tolist(), (hidden[1:] / hidden[:-1]).tolist()))


@dataclass(frozen=True)
class AncestralMaskedSampler:
    r"""The usual sampler of masked diffusion: N equal steps of time from all hidden to none.

    A step from t to s draws, for every hidden token, from V + 1 categories by the Gumbel-max trick: stay hidden with
    probability :math:`(1 - \alpha_s)/(1 - \alpha_t)`, become k with probability
    :math:`\frac{\alpha_s - \alpha_t}{1 - \alpha_t} \mu^l(x_t, t)[k]`. The network's output is kept until a token of
    its row changes (``cache``), so a row needs about :func:`expected_nfe` evaluations.

    In float32 the noise has a ceiling of 24 ln 2, and as the mask holds almost all of the mass, rare tokens are lost:
    ``draw_dtype=torch.float32`` shows the bias, float64 removes it. :class:`TwoStageMaskedSampler` has the same law
    for a fraction of the draws.

    Args:
        steps: N.
        schedule: linear when omitted.
        cache: keep outputs until a token changes; only for models that do not read the time.
        draw_dtype: in which noise is drawn and added.
        temperature, top_p: of the tokens' law, see ``restricted_log_probs``.

    Raises:
        ValueError: for steps below 1, a schedule that does not fall from 1 to 0, or numbers out of range.

    Source: Sahoo et al., "Simple and Effective Masked Diffusion Language Models", NeurIPS 2024; its bias: Zheng et
    al., ICLR 2025.

    Examples:
        >>> def model(tokens, t=None):
        ...     return torch.zeros(*tokens.shape, 5)
        >>> out = AncestralMaskedSampler(steps=16).sample(model, batch=2, length=8, mask_id=5)
        >>> bool((out.x < 5).all()), out.calls <= 16
        (True, True)
    """

    steps: int
    schedule: MaskSchedule = field(default_factory=LinearMask)
    cache: bool = True
    draw_dtype: torch.dtype = torch.float64
    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        _check_common(self.steps, self.schedule, self.draw_dtype, self.temperature, self.top_p)

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
            model: see :class:`TokenModel`.
            batch, length: of the samples.
            mask_id: the mask symbol, outside the model's vocabulary.
            generator: source of randomness, on ``device``.
            prompt: tokens to keep, with ``mask_id`` where to fill; one for all rows, or one per row.
            progress: show a bar.
            device: the generator's when omitted.

        Returns:
            ``draws`` counts a draw of V + 1 categories for every hidden token of every step; ``row_calls`` holds the
            evaluations of each row, ``calls`` those that some row needed.

        Raises:
            ValueError: for a model that reads the time together with ``cache=True``, a ``mask_id`` inside the
                vocabulary, a prompt of another shape, or logits that leave a hidden position no token.
        """
        if self.cache and reads_time(model):
            raise ValueError(
                "cache=True keeps outputs over steps of time, but the model reads the time (time_input = True); "
                "give cache=False"
            )
        device = generator.device if device is None and generator is not None else device
        x, hidden = start_tokens(batch, length, mask_id, prompt, device)
        stale = torch.ones(batch, dtype=torch.bool, device=x.device)
        row_calls = torch.zeros(batch, dtype=torch.long, device=x.device)
        kept = torch.empty(0, device=x.device)
        calls = draws = 0
        with ProgressBar("sampling", total=self.steps, enabled=progress, measure=None) as bar:
            for i, (t, stay) in enumerate(stay_probabilities(self.schedule, self.steps)):
                rows = (hidden.any(1) & (stale | (not self.cache))).nonzero()[:, 0]
                if len(rows):
                    log_p, place = self._predict(model, x, rows, t, mask_id)
                    if not kept.numel():
                        kept = log_p.new_empty(batch, length, log_p.shape[-1])
                    kept[place] = log_p
                    calls += 1
                    row_calls[rows] += 1
                where = hidden.nonzero(as_tuple=True)
                x[where] = self._draw(kept, where, stay, mask_id, generator)
                draws += len(where[0])
                still = x == mask_id
                stale, hidden = (hidden & ~still).any(1), still
                bar.tick(i + 1)
        return Samples(x, calls, draws, row_calls)

    def _predict(self, model: TokenModel, x: Tensor, rows: Tensor, t: float, mask_id: int) -> tuple[Tensor, Any]:
        """Log-probabilities at the hidden positions of some rows, and where these are."""
        times = torch.full((len(rows),), t, device=x.device) if reads_time(model) else None
        logits = token_logits(model, x[rows], times, mask_id)
        row, place = (x[rows] == mask_id).nonzero(as_tuple=True)
        log_p = restricted_log_probs(logits[row, place].to(self.draw_dtype), self.temperature, self.top_p)
        return log_p, (rows[row], place)

    def _draw(
        self, kept: Tensor, where: tuple[Tensor, ...], stay: float, mask_id: int, generator: torch.Generator | None
    ) -> Tensor:
        """Draw from the V + 1 categories at some positions, in parts that fit."""
        vocab = kept.shape[-1]
        out = [torch.empty(0, dtype=torch.long, device=kept.device)]
        for row, place in zip(*(index.split(max(1, _AT_ONCE // (vocab + 1))) for index in where)):
            joint = kept.new_full((len(row), vocab + 1), _log(stay))
            joint[:, :vocab] = kept[row, place] + _log(1 - stay)
            k = gumbel_argmax(joint, dtype=self.draw_dtype, generator=generator)
            out.append(torch.where(k == vocab, mask_id, k))
        return torch.cat(out)


@dataclass(frozen=True)
class TwoStageMaskedSampler:
    r"""The law of :class:`AncestralMaskedSampler` by two draws: which tokens are revealed, then what they become.

    A step from t to s flips a coin of probability :math:`(\alpha_s - \alpha_t)/(1 - \alpha_t)` for every hidden
    token, and draws a category only where it came up. The network is called only for rows in which something is
    revealed, at the step's time, so no output need be kept and models that read the time save calls as well. Nothing
    is drawn from a mass of the order 1/N, so float32 would do little harm.

    Args:
        steps: N.
        schedule: linear when omitted.
        draw_dtype: in which noise is drawn and added.
        temperature, top_p: of the tokens' law, see ``restricted_log_probs``.

    Raises:
        ValueError: for steps below 1, a schedule that does not fall from 1 to 0, or numbers out of range.

    Examples:
        >>> def model(tokens, t=None):
        ...     return torch.zeros(*tokens.shape, 5)
        >>> out = TwoStageMaskedSampler(steps=16).sample(model, batch=2, length=8, mask_id=5)
        >>> bool((out.x < 5).all()), out.calls <= 16
        (True, True)
    """

    steps: int
    schedule: MaskSchedule = field(default_factory=LinearMask)
    draw_dtype: torch.dtype = torch.float64
    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        _check_common(self.steps, self.schedule, self.draw_dtype, self.temperature, self.top_p)

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
        """Fill every hidden position; arguments and errors as :meth:`AncestralMaskedSampler.sample`.

        Returns:
            ``draws`` counts coins and categories.
        """
        device = generator.device if device is None and generator is not None else device
        x, hidden = start_tokens(batch, length, mask_id, prompt, device)
        row_calls = torch.zeros(batch, dtype=torch.long, device=x.device)
        calls = draws = 0
        with ProgressBar("sampling", total=self.steps, enabled=progress, measure=None) as bar:
            for i, (t, stay) in enumerate(stay_probabilities(self.schedule, self.steps)):
                row, place = hidden.nonzero(as_tuple=True)
                chance = torch.full((len(row),), 1 - stay, dtype=torch.float64, device=x.device)
                shown = bernoulli(chance, dtype=self.draw_dtype, generator=generator)
                draws += len(row)
                row, place = row[shown], place[shown]
                if len(row):
                    rows, which = row.unique(return_inverse=True)
                    times = torch.full((len(rows),), t, device=x.device) if reads_time(model) else None
                    logits = token_logits(model, x[rows], times, mask_id)[which, place]
                    log_p = restricted_log_probs(logits.to(self.draw_dtype), self.temperature, self.top_p)
                    x[row, place] = gumbel_argmax(log_p, dtype=self.draw_dtype, generator=generator)
                    hidden[row, place] = False
                    draws += len(row)
                    calls += 1
                    row_calls[rows] += 1
                bar.tick(i + 1)
        return Samples(x, calls, draws, row_calls)


def _log(p: float) -> float:
    return math.log(p) if p > 0 else -math.inf


def _check_common(steps: int, schedule: MaskSchedule, dtype: torch.dtype, temperature: float, top_p: float) -> None:
    check_number("steps", steps, low=1, integer=True)
    check_mask_schedule(schedule)
    random_bits(dtype)
    check_number("temperature", temperature, low=0)
    check_number("top_p", top_p, low=0, high=1, open_low=True)
