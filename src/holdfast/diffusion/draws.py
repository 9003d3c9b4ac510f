r"""Exact random draws of bits, categories and Gumbel noise, and what fewer random bits would have given."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from holdfast.core.checks import check_number

__all__ = ["bernoulli", "categorical", "gumbel", "gumbel_argmax", "random_bits", "uniform_open"]

_BITS = {torch.float16: 11, torch.bfloat16: 8, torch.float32: 24, torch.float64: 53}


def random_bits(dtype: torch.dtype) -> int:
    """Return how many random bits a uniform number of a floating dtype carries: its significand's.

    Raises:
        ValueError: for a dtype that is not one of float16, bfloat16, float32, float64.

    Examples:
        >>> random_bits(torch.float32), random_bits(torch.float64)
        (24, 53)
    """
    if dtype not in _BITS:
        raise ValueError(f"dtype must be one of float16, bfloat16, float32, float64; got {dtype}")
    return _BITS[dtype]


def _resolve(bits: int | None, dtype: torch.dtype) -> int:
    most = random_bits(dtype)
    return most if bits is None else int(check_number("bits", bits, low=1, high=most, integer=True))


def _multiples(low: int, shape: Sequence[int], bits: int, dtype: torch.dtype, generator, device) -> Tensor:
    """Uniform multiples of 2^-bits from low * 2^-bits to 1 - 2^-bits."""
    kind = torch.int32 if bits <= 30 else torch.int64
    k = torch.randint(low, 2**bits, tuple(shape), generator=generator, device=device, dtype=kind)
    return k.to(dtype).mul_(2.0**-bits)


def uniform_open(
    shape: Sequence[int],
    *,
    bits: int | None = None,
    dtype: torch.dtype = torch.float64,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Float[Tensor, "*shape"]:
    r"""Uniform numbers of the open interval, multiples of :math:`2^{-b}`: :math:`u \in \{2^{-b}, \dots, 1 - 2^{-b}\}`.

    Zero is drawn again rather than moved, so that a logarithm may follow and the law is not shifted.

    Args:
        shape: of the result.
        bits: number of random bits b; the dtype's own (24 for float32, 53 for float64) when omitted. Fewer bits in
            float64 emulate a coarser generator without its rounding.
        dtype: floating dtype of the result.
        generator: source of randomness, on ``device``.
        device: the generator's when omitted.

    Raises:
        ValueError: for bits below 1 or above what the dtype holds.

    Examples:
        >>> u = uniform_open((1000,), bits=2, generator=torch.Generator().manual_seed(0))
        >>> sorted(set(u.tolist()))
        [0.25, 0.5, 0.75]
    """
    b = _resolve(bits, dtype)
    if device is None and generator is not None:
        device = generator.device
    if bits is not None or dtype not in (torch.float32, torch.float64):
        return _multiples(1, shape, b, dtype, generator, device)
    u = torch.rand(tuple(shape), dtype=dtype, generator=generator, device=device)
    while u.numel() and float(u.min()) == 0:
        zero = u == 0
        u[zero] = torch.rand(int(zero.sum()), dtype=dtype, generator=generator, device=device)
    return u


def gumbel(
    shape: Sequence[int],
    *,
    bits: int | None = None,
    dtype: torch.dtype = torch.float64,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Float[Tensor, "*shape"]:
    r"""Standard Gumbel noise :math:`g = -\log(-\log u)`; never above :math:`b \ln 2`, see
    :func:`holdfast.diffusion.gumbel_truncation.gumbel_ceiling`.

    Examples:
        >>> bool(gumbel((10_000,), bits=4, generator=torch.Generator().manual_seed(0)).max() < 4 * math.log(2))
        True
    """
    u = uniform_open(shape, bits=bits, dtype=dtype, generator=generator, device=device)
    return u.log_().neg_().log_().neg_()


def _check_rows(name: str, best: Tensor, low: float) -> None:
    """Every row's largest entry must be finite and above ``low``; NaN propagates into it."""
    bad = ~(torch.isfinite(best) & (best > low))
    if bool(bad.any()):
        where = tuple(bad.nonzero()[0].tolist())
        raise ValueError(
            f"{name} must hold no NaN and leave every row a possible category, but the largest entry of row "
            f"{where[0] if len(where) == 1 else where} is {float(best[where])}"
        )


def gumbel_argmax(
    logits: Float[Tensor, "*rows categories"],
    *,
    dtype: torch.dtype = torch.float64,
    bits: int | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "*rows"]:
    r"""Draw a category of every row from unnormalised log-probabilities by the Gumbel-max trick.

    .. math:: \arg\max_k\; \log\pi_k + g_k, \qquad P(k) = \pi_k / \textstyle\sum_j \pi_j

    Exact as far as the noise is: with b random bits categories of probability below :math:`2^{-b}` can hardly win,
    which lowers the temperature. Everything is computed in ``dtype``.

    Args:
        logits: any floating dtype; ``-inf`` is an impossible category.
        dtype: in which noise is drawn and added; float64 unless the bias of a coarser one is wanted.
        bits: random bits per number, see :func:`uniform_open`.
        generator: source of randomness, on the device of ``logits``.

    Raises:
        ValueError: for NaN, plus infinity, or a row without a possible category.

    Source: Gumbel-max trick; its truncation: Zheng et al., "Masked Diffusion Models are Secretly Time-Agnostic
    Masked Models and Exploit Inaccurate Categorical Sampling", ICLR 2025.

    Examples:
        >>> logits = torch.tensor([0.2, 0.8]).log().expand(10_000, 2)
        >>> drawn = gumbel_argmax(logits, generator=torch.Generator().manual_seed(0))
        >>> round(drawn.double().mean().item(), 1)
        0.8
    """
    if logits.ndim == 0 or logits.shape[-1] == 0 or not logits.is_floating_point():
        raise ValueError(
            f"logits must be floating of shape (..., categories), got {logits.dtype} {tuple(logits.shape)}"
        )
    _check_rows("logits", logits.amax(-1), -math.inf)
    g = gumbel(logits.shape, bits=bits, dtype=dtype, generator=generator, device=logits.device)
    return g.add_(logits.to(dtype)).argmax(-1)


def categorical(
    probs: Float[Tensor, "*rows categories"],
    *,
    dtype: torch.dtype = torch.float64,
    bits: int | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "*rows"]:
    r"""Draw a category of every row from unnormalised probabilities by a race of exponential clocks.

    .. math:: \arg\max_k\; \pi_k / E_k, \qquad E_k = -\log u_k

    the Gumbel-max trick without its second logarithm, with the same law and the same truncation.

    Args:
        probs: non-negative, any floating dtype, rows need not sum to 1.
        dtype: in which the race is run; float64 unless the bias of a coarser one is wanted.
        bits: random bits per number, see :func:`uniform_open`.
        generator: source of randomness, on the device of ``probs``.

    Raises:
        ValueError: for NaN, a negative or infinite entry, or a row of zeros.

    Examples:
        >>> probs = torch.tensor([1.0, 0.0, 4.0]).expand(10_000, 3)
        >>> drawn = categorical(probs, generator=torch.Generator().manual_seed(0))
        >>> [round(v, 1) for v in (torch.bincount(drawn) / 10_000).tolist()]
        [0.2, 0.0, 0.8]
    """
    if probs.ndim == 0 or probs.shape[-1] == 0 or not probs.is_floating_point():
        raise ValueError(f"probs must be floats of shape (..., categories), got {probs.dtype} {tuple(probs.shape)}")
    if probs.numel() and float(probs.amin()) < 0:
        raise ValueError(f"probs must be non-negative, got {float(probs.amin())}")
    _check_rows("probs", probs.amax(-1), 0.0)
    clocks = uniform_open(probs.shape, bits=bits, dtype=dtype, generator=generator, device=probs.device)
    return torch.div(probs.to(dtype), clocks.log_().neg_()).argmax(-1)


def bernoulli(
    probs: Float[Tensor, "*shape"],
    *,
    dtype: torch.dtype = torch.float64,
    bits: int | None = None,
    generator: torch.Generator | None = None,
) -> Bool[Tensor, "*shape"]:
    r"""Independent coin flips, true with the given probabilities: :math:`u < p` with a b-bit uniform of [0, 1).

    A probability below :math:`2^{-b}` is rounded up to it and 0 and 1 are exact; in float64 the error is below
    1.2e-16.

    Raises:
        ValueError: for a probability outside [0, 1], or NaN.

    Examples:
        >>> p = torch.tensor([0.0, 1.0]).repeat(100)
        >>> bool((bernoulli(p, generator=torch.Generator().manual_seed(0)) == p.bool()).all())
        True
    """
    if not probs.is_floating_point():
        raise ValueError(f"probs must be floating, got {probs.dtype}")
    b = _resolve(bits, dtype)
    if probs.numel():
        low, high = float(probs.amin()), float(probs.amax())
        if not (low >= 0 and high <= 1):
            raise ValueError(f"probs must lie in [0, 1], got {low if not low >= 0 else high}")
    if bits is None and dtype in (torch.float32, torch.float64):
        u = torch.rand(probs.shape, dtype=dtype, generator=generator, device=probs.device)
    else:
        u = _multiples(0, probs.shape, b, dtype, generator, probs.device)
    return u < probs.to(dtype)
