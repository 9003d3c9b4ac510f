r"""Training losses of masked diffusion: over time, over the number of hidden tokens, and exactly."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from scipy.special import roots_jacobi
from torch import Tensor
from torch.nn import functional as F

from holdfast.core.checks import check_choice, check_number
from holdfast.diffusion.masked.masking import mask_bernoulli, mask_exactly
from holdfast.diffusion.masked.model import TokenModel, reads_time, token_logits
from holdfast.diffusion.masked.schedules import LinearMask, MaskSchedule, check_mask_schedule

__all__ = ["NelboMode", "exact_masked_nelbo", "masked_cross_entropy", "masked_nelbo"]

NelboMode = Literal["count", "continuous"]
_MAX_EXACT = 12


def masked_cross_entropy(
    logits: Float[Tensor, "batch length vocab"],
    target: Int[Tensor, "batch length"] | Float[Tensor, "batch length vocab"],
    hidden: Bool[Tensor, "batch length"],
    label_smoothing: float = 0.0,
) -> Float[Tensor, " batch"]:
    r"""Cross-entropy of every row, summed over its hidden positions, in nats.

    .. math:: \sum_{l\,\text{hidden}} -\sum_k q_l[k] \log \mathrm{softmax}(\ell_l)[k]

    Args:
        logits: of every position; read at the hidden ones only.
        target: tokens, or a law q over the tokens at every position.
        hidden: positions that count.
        label_smoothing: share of the target that is spread over all tokens.

    Raises:
        ValueError: for shapes that do not fit.

    Examples:
        >>> hidden = torch.tensor([[True, False, True]])
        >>> round(masked_cross_entropy(torch.zeros(1, 3, 4), torch.zeros(1, 3).long(), hidden).item(), 4)  # 2 log 4
        2.7726
    """
    if logits.ndim != 3 or hidden.shape != logits.shape[:2] or target.shape[:2] != hidden.shape:
        raise ValueError(
            "logits (batch, length, vocab), target and hidden (batch, length) do not fit: "
            f"{tuple(logits.shape)}, {tuple(target.shape)}, {tuple(hidden.shape)}"
        )
    ce = F.cross_entropy(logits[hidden], target[hidden], reduction="none", label_smoothing=label_smoothing)
    rows = hidden.nonzero()[:, 0]
    return ce.new_zeros(len(hidden)).index_add(0, rows, ce)


def _spread(batch: int, stratified: bool, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """One uniform number per row; stratified, the rows share out [0, 1) evenly from a common random start."""
    if not stratified:
        return torch.rand(batch, generator=generator, device=device, dtype=torch.float64)
    start = torch.rand(1, generator=generator, device=device, dtype=torch.float64)
    return (start + torch.arange(batch, device=device) / batch) % 1


def _check_x0(x0: Tensor, mask_id: int) -> None:
    if x0.ndim != 2 or x0.shape[1] == 0 or x0.is_floating_point():
        raise ValueError(f"x0 must hold tokens of shape (batch, length), got {x0.dtype} {tuple(x0.shape)}")
    if x0.numel() and not 0 <= int(x0.min()) <= int(x0.max()) < mask_id:
        raise ValueError(f"x0 must hold tokens in [0, mask_id = {mask_id}), got {int(x0.min())} to {int(x0.max())}")


def masked_nelbo(
    model: TokenModel,
    x0: Int[Tensor, "batch length"],
    mask_id: int,
    mode: NelboMode = "count",
    *,
    schedule: MaskSchedule | None = None,
    antithetic: bool = True,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " batch"]:
    r"""One unbiased draw per row of the negative evidence lower bound, in nats per sequence.

    ``"continuous"`` draws a time and hides every token independently,

    .. math:: L = \int_0^1 \frac{-\alpha'_t}{1 - \alpha_t}\, E_{x_t} \sum_{l: x_t^l = m} -\log \mu^l(x_t, t)[x_0^l]
              \,dt,

    and ``"count"`` draws how many tokens to hide, n uniform on 1 to L, and hides exactly so many,

    .. math:: L = \sum_{n=1}^{L} \frac1n E_{x_n} \sum_{l\,\text{hidden}} -\log \bar\mu^l(x_n)[x_0^l]
              = E_n\, \frac Ln \sum_{l\,\text{hidden}} \cdots

    The two are the same number for every schedule: time is the number of hidden tokens in disguise. A model that
    reads the time is given :math:`t = \alpha^{-1}(a)` with :math:`a \sim \mathrm{Beta}(L - n + 1, n)` in the second,
    the law of the share visible when n of L are hidden.

    Args:
        model: a :class:`TokenModel`; it may be in training.
        x0: data, tokens below ``mask_id``.
        mask_id: the mask symbol, outside the model's vocabulary.
        mode: ``"count"`` or ``"continuous"``.
        schedule: linear when omitted; changes only the variance, and the times a model reads.
        antithetic: let the rows of the batch share out the times (numbers) evenly: less variance, same mean.
        generator: source of randomness, on the device of ``x0``.

    Raises:
        ValueError: for tokens outside [0, mask_id), a ``mask_id`` inside the vocabulary, an unknown mode, or a
            schedule that does not fall from 1 to 0.

    Source: Zheng et al., "Masked Diffusion Models are Secretly Time-Agnostic Masked Models and Exploit Inaccurate
    Categorical Sampling", ICLR 2025 (time-free loss); continuous: Sahoo et al., "Simple and Effective Masked
    Diffusion Language Models", NeurIPS 2024.

    Examples:
        >>> def uniform(tokens, t=None):
        ...     return torch.zeros(*tokens.shape, 4)
        >>> x0 = torch.zeros(1000, 6, dtype=torch.long)
        >>> round(masked_nelbo(uniform, x0, mask_id=4).mean().item() / math.log(4), 2)  # 6 tokens, log 4 each
        6.0
    """
    check_choice("mode", mode, ("count", "continuous"))
    _check_x0(x0, mask_id)
    schedule = LinearMask() if schedule is None else schedule
    check_mask_schedule(schedule)
    batch, length = x0.shape
    u = _spread(batch, antithetic, generator, x0.device)
    t = None
    if mode == "continuous":
        # Times of (0, 1]: at time 0 nothing is hidden and the weight is infinite.
        t = 1 - u
        a = schedule.alpha(t)
        weight = -schedule.dalpha(t) / (1 - a)
        x = mask_bernoulli(x0, a.clamp(0, 1), mask_id, generator)
    else:
        n = 1 + (length * u).long().clamp_max(length - 1)
        weight = length / n
        x = mask_exactly(x0, n, mask_id, generator)
        if reads_time(model):
            # Beta(L - n + 1, n) is the law of the (L - n + 1)-th smallest of L uniform numbers.
            ordered = torch.rand(x0.shape, generator=generator, device=x0.device, dtype=torch.float64).sort(1)[0]
            t = schedule.alpha_inv(ordered.gather(1, (length - n)[:, None])[:, 0])
    times = t.float() if t is not None and reads_time(model) else None
    logits = token_logits(model, x, times, mask_id)
    _check_below(x0, logits.shape[-1])
    ce = masked_cross_entropy(logits, x0, x == mask_id)
    return weight.to(ce.dtype) * ce


def _check_below(x0: Tensor, vocab: int) -> None:
    if x0.numel() and int(x0.max()) >= vocab:
        raise ValueError(f"x0 must hold tokens in [0, {vocab}), which the model predicts, got {int(x0.max())}")


def _subsets(length: int, n: int, size: int) -> Iterator[Bool[Tensor, "masks length"]]:
    """All masks that hide n positions, in parts of at most ``size``."""
    chosen = torch.tensor(list(combinations(range(length), n)))
    for part in chosen.split(size):
        yield torch.zeros(len(part), length, dtype=torch.bool).scatter_(1, part, True)


@torch.no_grad()
def exact_masked_nelbo(
    model: TokenModel,
    x0: Int[Tensor, "batch length"],
    mask_id: int,
    *,
    schedule: MaskSchedule | None = None,
    nodes: int = 32,
    chunk: int = 4096,
) -> Float[Tensor, " batch"]:
    r"""The bound that :func:`masked_nelbo` draws from, by all :math:`2^L - 1` masks; for at most 12 tokens.

    .. math:: L = \sum_{n=1}^{L} \frac{1}{n \binom Ln} \sum_{|M| = n} \sum_{l \in M} -\log \bar\mu^l(x_M)[x_0^l]

    For a model that reads the time, :math:`\log\bar\mu` is its mean over :math:`\mathrm{Beta}(L - n + 1, n)`, by
    Gauss-Jacobi quadrature.

    Args:
        model, x0, mask_id, schedule: as in :func:`masked_nelbo`.
        nodes: of the quadrature, for models that read the time.
        chunk: largest number of sequences per call of the model.

    Raises:
        ValueError: for sequences of more than 12 tokens, and as :func:`masked_nelbo`.

    Examples:
        >>> def uniform(tokens, t=None):
        ...     return torch.zeros(*tokens.shape, 4)
        >>> round(exact_masked_nelbo(uniform, torch.tensor([[0, 1, 2, 3, 0, 1]]), 4).item() / math.log(4), 6)
        6.0
    """
    _check_x0(x0, mask_id)
    check_number("nodes", nodes, low=1, integer=True)
    check_number("chunk", chunk, low=1, integer=True)
    schedule = LinearMask() if schedule is None else schedule
    check_mask_schedule(schedule)
    batch, length = x0.shape
    if length > _MAX_EXACT:
        raise ValueError(f"all masks are listed for at most {_MAX_EXACT} tokens, got sequences of {length}")
    total = torch.zeros(batch, dtype=torch.float64, device=x0.device)
    for n in range(1, length + 1):
        if reads_time(model):
            # The Beta weight a^(L-n) (1-a)^(n-1) on [0, 1] is the Jacobi weight on [-1, 1].
            z, w = (torch.from_numpy(v) for v in roots_jacobi(nodes, n - 1, length - n))
            times, shares = list(schedule.alpha_inv((1 + z) / 2)), (w / w.sum()).tolist()
        else:
            times, shares = [None], [1.0]
        for hidden in _subsets(length, n, max(1, chunk // batch)):
            masks = hidden.to(x0.device).repeat(batch, 1)
            clean = x0.repeat_interleave(len(hidden), 0)
            for t, share in zip(times, shares):
                at = None if t is None else t.float().to(x0.device).expand(len(masks))
                logits = token_logits(model, clean.masked_fill(masks, mask_id), at, mask_id)
                _check_below(x0, logits.shape[-1])
                ce = masked_cross_entropy(logits.double(), clean, masks).view(batch, -1).sum(1)
                total += share / (n * math.comb(length, n)) * ce
    return total
