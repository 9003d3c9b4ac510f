r"""What a Gumbel-max draw really samples from when its noise has a ceiling."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.core.checks import check_finite, check_number
from holdfast.diffusion.draws import random_bits

__all__ = ["gumbel_ceiling", "truncated_gumbel_probs"]


def gumbel_ceiling(kind: torch.dtype | int) -> float:
    r"""Largest Gumbel number that a uniform of b random bits gives: :math:`-\log(-\log(1 - 2^{-b}))`, nearly
    :math:`b \ln 2`.

    Args:
        kind: number of bits, or a floating dtype (float32: 24 bits, float64: 53).

    Examples:
        >>> round(gumbel_ceiling(torch.float32), 4), round(gumbel_ceiling(53), 4)
        (16.6355, 36.7368)
    """
    bits = kind if isinstance(kind, int) else random_bits(kind)
    check_number("bits", bits, low=1, integer=True)
    return -math.log(-math.log1p(-(2.0**-bits)))


def truncated_gumbel_probs(pi: Float[Tensor, " categories"], ceiling: float) -> Float[Tensor, " categories"]:
    r"""Law of :math:`\arg\max_k \log\pi_k + g_k` when the Gumbel noise is conditioned on :math:`g \le M`.

    With :math:`\pi` in ascending order, :math:`S_i = \sum_{j \ge i} \pi_j` and :math:`\pi_0 = 0`,

    .. math:: \pi'_k = \pi_k \sum_{i=1}^k \beta_i, \qquad
              \beta_i = \frac{e^{(K-i+1)e^{-M}}}{S_i}\Bigl(e^{-S_i e^{-M}/\pi_i} - e^{-S_i e^{-M}/\pi_{i-1}}\Bigr).

    As :math:`\beta \ge 0`, the ratio :math:`\pi'_k / \pi_k` grows with :math:`\pi_k`: a lower temperature. Computed
    in float64 in :math:`O(K \log K)`; the difference of exponentials is taken by ``expm1``.

    Args:
        pi: non-negative, sums to 1; zeros stay zeros.
        ceiling: M, positive; see :func:`gumbel_ceiling`.

    Raises:
        ValueError: for entries that are negative, not finite or do not sum to 1 within 1e-4, or M not positive.

    Source: Zheng et al., "Masked Diffusion Models are Secretly Time-Agnostic Masked Models and Exploit Inaccurate
    Categorical Sampling", ICLR 2025 (truncated Gumbel-max).

    Examples:
        >>> [round(p, 3) for p in truncated_gumbel_probs(torch.tensor([0.1, 0.3, 0.6]), 1.0).tolist()]
        [0.008, 0.228, 0.764]
    """
    check_number("ceiling", ceiling, low=0, open_low=True)
    if pi.ndim != 1 or len(pi) == 0:
        raise ValueError(f"pi must have shape (categories,), got {tuple(pi.shape)}")
    check_finite("pi", pi)
    p, order = pi.double().sort()
    if float(p[0]) < 0:
        raise ValueError(f"pi must be non-negative, got {float(p[0])}")
    total = float(p.sum())
    if abs(total - 1) > 1e-4:
        raise ValueError(f"pi must sum to 1 within 1e-4, got {total:.6g}")
    zeros = int((p == 0).sum())
    p = p[zeros:] / total
    k = len(p)
    # S_i as 1 minus the small entries' sum where that is small, else as the sum of the large ones: neither cancels.
    above = p.flip(0).cumsum(0).flip(0)
    below = torch.cat([p.new_zeros(1), p.cumsum(0)[:-1]])
    s = torch.where(below < 0.5, 1 - below, above)
    tail = math.exp(-ceiling)
    exponent = s * tail / p
    previous = torch.cat([torch.full((1,), math.inf, dtype=p.dtype, device=p.device), s[1:] * tail / p[:-1]])
    # e^-a - e^-b = e^-a (1 - e^-(b - a)) with b >= a.
    gap = -torch.expm1(-(previous - exponent))
    count = torch.arange(k, 0, -1, dtype=p.dtype, device=p.device)
    beta = torch.exp(count * tail - exponent) * gap / s
    out = torch.zeros_like(pi, dtype=torch.float64)
    out[order[zeros:]] = p * beta.cumsum(0)
    return out
