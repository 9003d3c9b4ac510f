r"""How a token model is called: tokens with holes in, logits of every position out."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from holdfast.core.checks import check_number

__all__ = ["TokenModel", "logits_at", "reads_time", "restricted_log_probs", "start_tokens", "token_logits"]


class TokenModel(Protocol):
    r"""A network, oracle or function that fills holes: ``model(tokens, t)`` gives logits of every position.

    ``tokens`` (batch, length) holds ids in [0, V) and the mask symbol, which is V or larger. The logits (batch,
    length, V) have no entry for the mask, which is thus never predicted, and are read at hidden positions only; they
    need not be normalised, and ``-inf`` is an impossible token. ``t`` is a time per row, or ``None``.

    A model that reads ``t`` says so with an attribute ``time_input = True``; without the attribute, or with
    ``False``, its answer depends on the tokens alone and may be kept until a token changes. A model may also offer
    ``at(tokens, t, positions)``, logits (batch, k, V) of the ``positions`` (batch, k) alone, for a sampler that
    needs few of them: the last layer is most of the cost when V is large.

    Examples:
        >>> def uniform(tokens, t=None):
        ...     return torch.zeros(*tokens.shape, 3)
        >>> token_logits(uniform, torch.full((2, 5), 3), None, mask_id=3).shape
        torch.Size([2, 5, 3])
    """

    def __call__(
        self, tokens: Int[Tensor, "batch length"], t: Float[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch length vocab"]: ...


def reads_time(model: Any) -> bool:
    """Return whether a model declares that its answer depends on the time (attribute ``time_input``)."""
    return bool(getattr(model, "time_input", False))


def _check_logits(logits: Any, shape: tuple[int, ...], mask_id: int) -> Tensor:
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        raise TypeError(f"a token model must return a floating tensor, got {type(logits).__name__}")
    if logits.ndim != 3 or logits.shape[:2] != shape:
        raise ValueError(
            f"a token model must return logits of shape ({shape[0]}, {shape[1]}, vocab), got {tuple(logits.shape)}"
        )
    if mask_id < logits.shape[2]:
        raise ValueError(
            f"mask_id must lie outside the vocabulary [0, {logits.shape[2]}) that the model predicts, got {mask_id}"
        )
    return logits


def token_logits(
    model: TokenModel, tokens: Int[Tensor, "batch length"], t: Float[Tensor, " batch"] | None, mask_id: int
) -> Float[Tensor, "batch length vocab"]:
    """Call a model and check what it returns.

    Raises:
        TypeError, ValueError: for something else than logits of every position, or a ``mask_id`` that is a token.
    """
    return _check_logits(model(tokens, t), tuple(tokens.shape), mask_id)


def logits_at(
    model: Any,
    tokens: Int[Tensor, "batch length"],
    t: Float[Tensor, " batch"] | None,
    positions: Int[Tensor, "batch k"],
    mask_id: int,
) -> Float[Tensor, "batch k vocab"]:
    """Logits of some positions: by the model's own ``at`` where it has one, else picked from all.

    Raises:
        TypeError, ValueError: as :func:`token_logits`.

    Examples:
        >>> model = lambda tokens, t=None: torch.arange(4.0)[:, None].expand(1, 4, 2)
        >>> logits_at(model, torch.full((1, 4), 2), None, torch.tensor([[3, 1]]), mask_id=2)[..., 0].tolist()
        [[3.0, 1.0]]
    """
    at = getattr(model, "at", None)
    if callable(at):
        return _check_logits(at(tokens, t, positions), tuple(positions.shape), mask_id)
    logits = token_logits(model, tokens, t, mask_id)
    return logits.gather(1, positions[..., None].expand(-1, -1, logits.shape[2]))


def restricted_log_probs(
    logits: Float[Tensor, "*rows vocab"], temperature: float = 1.0, top_p: float = 1.0
) -> Float[Tensor, "*rows vocab"]:
    r"""Log-probabilities at a temperature, of the most probable tokens that together hold ``top_p``.

    .. math:: \log p_k = \log\mathrm{softmax}(\ell / T)_k \text{ for } k \in A, \quad -\infty \text{ else},

    up to normalisation, where :math:`A` is the smallest set of most probable tokens whose mass reaches ``top_p``.
    ``temperature=0`` keeps the most probable token alone.

    Args:
        logits: any floating dtype, which the result keeps.
        temperature: T, zero or larger.
        top_p: share of the mass to keep, in (0, 1].

    Raises:
        ValueError: for numbers out of range, NaN, or a row without a possible token.

    Examples:
        >>> logits = torch.tensor([0.5, 0.3, 0.2]).log()
        >>> restricted_log_probs(logits, top_p=0.7).exp().round(decimals=3).tolist()
        [0.625, 0.375, 0.0]
    """
    check_number("temperature", temperature, low=0)
    check_number("top_p", top_p, low=0, high=1, open_low=True)
    best = logits.amax(-1)
    bad = ~torch.isfinite(best)
    if bool(bad.any()):
        where = tuple(bad.nonzero()[0].tolist())
        raise ValueError(
            f"logits must hold no NaN and leave every hidden position a possible token, but the largest logit at "
            f"{where} is {float(best[where])}"
        )
    if temperature == 0:
        chosen = torch.full_like(logits, float("-inf"))
        return chosen.scatter_(-1, logits.argmax(-1, keepdim=True), 0.0)
    log_p = (logits / temperature if temperature != 1 else logits).log_softmax(-1)
    if top_p == 1:
        return log_p
    ordered, order = log_p.sort(-1, descending=True)
    before = ordered.double().exp().cumsum(-1) - ordered.double().exp()
    # A mass that rounding puts just below top_p has reached it.
    dropped = torch.zeros_like(order, dtype=torch.bool).scatter_(-1, order, before >= top_p - 1e-6)
    return log_p.masked_fill(dropped, float("-inf")).log_softmax(-1)


def start_tokens(
    batch: int,
    length: int,
    mask_id: int,
    prompt: Int[Tensor, " length"] | Int[Tensor, "batch length"] | None,
    device: torch.device | str | None,
) -> tuple[Int[Tensor, "batch length"], Bool[Tensor, "batch length"]]:
    """Return what a sampler starts from, and where it is hidden: the mask symbol but for a prompt's tokens.

    Args:
        batch, length: of the samples.
        mask_id: the mask symbol.
        prompt: tokens to keep, with ``mask_id`` where the sampler is to fill; one for all rows, or one per row.
        device: of the result.

    Raises:
        ValueError: for a batch or length below 1, or a prompt of another shape.

    Examples:
        >>> tokens, hidden = start_tokens(1, 3, 9, torch.tensor([4, 9, 9]), "cpu")
        >>> tokens.tolist(), hidden.tolist()
        ([[4, 9, 9]], [[False, True, True]])
    """
    check_number("batch", batch, low=1, integer=True)
    check_number("length", length, low=1, integer=True)
    check_number("mask_id", mask_id, low=0, integer=True)
    if prompt is None:
        tokens = torch.full((batch, length), mask_id, dtype=torch.long, device=device)
    else:
        if prompt.is_floating_point() or prompt.shape not in ((length,), (batch, length)):
            raise ValueError(
                f"prompt must hold tokens of shape ({length},) or ({batch}, {length}), with mask_id where the sampler "
                f"fills; got {prompt.dtype} {tuple(prompt.shape)}"
            )
        wrong = (prompt < 0) | (prompt > mask_id)
        if bool(wrong.any()):
            raise ValueError(f"prompt must hold tokens in [0, {mask_id}], got {int(prompt[wrong][0])}")
        tokens = prompt.to(device=device, dtype=torch.long).expand(batch, length).clone()
    return tokens, tokens == mask_id
