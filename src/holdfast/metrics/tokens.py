"""Generated token sequences: how diverse they are, and how likely a reference model finds them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from holdfast.core.checks import check_choice, check_finite, check_number

__all__ = ["causal_scorer", "generative_perplexity", "token_entropy"]

Scorer = Callable[[Tensor], Tensor]
"""From tokens (batch, length) to the log-probabilities, in nats, of those tokens that are scored (batch, scored)."""


def _as_tokens(tokens: Any) -> Tensor:
    t = tokens.detach() if isinstance(tokens, Tensor) else torch.as_tensor(np.asarray(tokens))
    if t.is_floating_point() or t.is_complex() or t.dtype == torch.bool:
        raise TypeError(f"tokens must be integers, got dtype {t.dtype}")
    if t.ndim != 2 or t.numel() == 0:
        raise ValueError(f"tokens must have shape (batch, length) and not be empty, got {tuple(t.shape)}")
    if int(t.min()) < 0:
        raise ValueError(f"tokens must be non-negative, got {int(t.min())}")
    return t.long()


def token_entropy(
    tokens: Int[Tensor, "batch length"], mode: Literal["per_sequence", "corpus"] = "per_sequence"
) -> float:
    r"""Entropy of token frequencies, in nats: within every sequence and averaged, or over all sequences together.

    .. math:: -\sum_k \hat p_k \log \hat p_k

    Low where a sequence repeats few tokens: the number that has to stand beside a generative perplexity, which
    repetition lowers as well. Frequencies of L tokens have an entropy of at most log L, so compare sequences of one
    length only.

    Args:
        tokens: non-negative integers (batch, length).
        mode: ``"per_sequence"`` (mean over sequences) or ``"corpus"``.

    Raises:
        TypeError, ValueError: for tokens that are not integers of that shape, or an unknown mode.

    Source: Zheng et al., "Masked Diffusion Models are Secretly Time-Agnostic Masked Models and Exploit Inaccurate
    Categorical Sampling", ICLR 2025.

    Examples:
        >>> x = torch.tensor([[0, 0, 1, 1], [5, 5, 5, 5]])
        >>> round(token_entropy(x), 4), round(token_entropy(x, "corpus"), 4)
        (0.3466, 1.0397)
    """
    check_choice("mode", mode, ("per_sequence", "corpus"))
    x = _as_tokens(tokens)
    if mode == "corpus":
        x = x.reshape(1, -1)
    rows, length = x.shape
    span = int(x.max()) + 1
    codes, counts = torch.unique(torch.arange(rows, device=x.device)[:, None] * span + x, return_counts=True)
    c = counts.double()
    # H = log L - (1/L) sum c log c for frequencies c / L.
    spent = torch.zeros(rows, dtype=torch.float64, device=x.device).index_add(0, codes // span, torch.xlogy(c, c))
    return float((math.log(length) - spent / length).mean().clamp_min(0))


def generative_perplexity(scorer: Scorer, tokens: Int[Tensor, "batch length"], batch_size: int = 64) -> float:
    r"""Perplexity of generated sequences under a reference model,
    :math:`\exp\bigl(-\tfrac1M \sum \log p(x_l \mid x_{<l})\bigr)` over the M scored tokens.

    Low values alone are no evidence of quality: repeating one probable token scores best. Report
    :func:`token_entropy` beside it.

    Args:
        scorer: from tokens (batch, length) to log-probabilities in nats (batch, scored); see :func:`causal_scorer`
            for language models and :class:`holdfast.metrics.ngrams.NGramModel` for a reference without a network.
        tokens: non-negative integers (batch, length).
        batch_size: sequences per call of the scorer.

    Raises:
        TypeError, ValueError: for tokens that are not integers of that shape, or a scorer that does not return one
            row of log-probabilities per sequence, finite and not positive.

    Examples:
        >>> fair = lambda x: torch.full(x.shape, -math.log(6.0))
        >>> round(generative_perplexity(fair, torch.randint(0, 6, (10, 7))), 3)
        6.0
    """
    x = _as_tokens(tokens)
    check_number("batch_size", batch_size, low=1, integer=True)
    total, count = 0.0, 0
    with torch.no_grad():
        for part in x.split(int(batch_size)):
            log_p = scorer(part)
            if not isinstance(log_p, Tensor) or log_p.ndim != 2 or len(log_p) != len(part) or log_p.numel() == 0:
                shape = tuple(log_p.shape) if isinstance(log_p, Tensor) else type(log_p).__name__
                raise ValueError(f"scorer must return log-probabilities ({len(part)}, scored tokens), got {shape}")
            check_finite("log-probabilities of the scorer", log_p)
            if float(log_p.max()) > 1e-4:
                raise ValueError(f"scorer must return log-probabilities, at most 0; got {float(log_p.max()):g}")
            total += float(log_p.double().sum())
            count += log_p.numel()
    return math.exp(-total / count)


def causal_scorer(model: Callable[..., Any]) -> Scorer:
    """Turn a causal language model into a scorer of all tokens but the first.

    Args:
        model: from tokens (batch, length) to the logits (batch, length, vocab) of each next token, or to an object
            with them as ``.logits`` (Hugging Face transformers).

    Examples:
        >>> model = lambda x: torch.zeros(*x.shape, 8)
        >>> causal_scorer(model)(torch.zeros(2, 5, dtype=torch.long)).shape
        torch.Size([2, 4])
    """

    def score(tokens: Int[Tensor, "batch length"]) -> Float[Tensor, "batch scored"]:
        out = model(tokens)
        logits = out if isinstance(out, Tensor) else out.logits
        log_p = logits[:, :-1].float().log_softmax(-1)
        return log_p.gather(2, tokens[:, 1:, None].to(log_p.device))[..., 0]

    return score
