"""Relative representations: samples described by their similarities to anchor samples."""

from __future__ import annotations

import math
from typing import Any, Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from holdfast.core.checks import check_choice, check_finite, check_number

__all__ = ["Similarity", "quantize_similarity", "relative_projection", "stratified_mean"]

Similarity = Literal["cosine", "inner", "euclidean", "basis"]
_SIMILARITIES = ("cosine", "inner", "euclidean", "basis")


def _unit(name: str, x: Tensor, eps: float | None) -> Tensor:
    norm = x.norm(dim=-1, keepdim=True)
    if eps is not None:
        return x / norm.clamp_min(eps)
    if bool((norm == 0).any()):
        i = tuple((norm.squeeze(-1) == 0).nonzero()[0].tolist())
        raise ValueError(
            f"{name} {i[0] if len(i) == 1 else i} is all zero, so its cosine is undefined; "
            "remove it, or give eps to let it have similarity 0"
        )
    return x / norm


def relative_projection(
    z: Float[Tensor, "*batch n d"],
    anchors: Float[Tensor, "*batch k d"],
    similarity: Similarity = "cosine",
    *,
    center: bool = False,
    eps: float | None = None,
) -> Float[Tensor, "*batch n k"]:
    r"""Describe every embedding by its similarity to each anchor's embedding.

    .. math:: r_x = \bigl(s(e_x, e_{a_1}), \dots, s(e_x, e_{a_K})\bigr), \qquad
              s(u, v) = \frac{\langle u, v\rangle}{\lVert u\rVert\,\lVert v\rVert}

    With the cosine, :math:`r` is unchanged by every rotation, reflection and rescaling of the space, also by a
    different positive scale for every sample. ``center`` subtracts the anchors' mean first, which adds
    translations, and keeps the similarities apart when all embeddings share a large mean.

    Args:
        similarity: ``"cosine"``; ``"inner"``, the inner product over :math:`\sqrt d`; ``"euclidean"``, the negative
            distance; ``"basis"``, the coordinates :math:`\arg\min_c \lVert A^\top c - x\rVert` of smallest norm, which
            for K = d spanning anchors are unchanged by any invertible linear map.
        eps: smallest norm that the cosine divides by. ``None`` refuses all-zero embeddings.

    Raises:
        ValueError: when the dimensions differ, there is no anchor, a value is not finite, or a cosine is undefined.

    Source: Moschella, Maiorca, Fumero, Norelli, Locatello, Rodolà, "Relative representations enable zero-shot
    latent space communication", ICLR 2023, Section 3.

    Examples:
        >>> z = torch.tensor([[2.0, 0.0], [1.0, 1.0]])
        >>> rotated = z @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
        >>> bool(torch.allclose(relative_projection(3 * rotated, rotated), relative_projection(z, z)))
        True
    """
    check_choice("similarity", similarity, _SIMILARITIES)
    if z.ndim < 2 or anchors.ndim < 2:
        raise ValueError(f"z and anchors must have shape (..., n, d), got {tuple(z.shape)} and {tuple(anchors.shape)}")
    if z.shape[-1] != anchors.shape[-1]:
        raise ValueError(f"samples have {z.shape[-1]} entries, but anchors have {anchors.shape[-1]}")
    if anchors.shape[-2] == 0:
        raise ValueError("there must be at least one anchor, got none")
    if not torch.compiler.is_compiling():  # a traced program cannot branch on values
        check_finite("z", z)
        check_finite("anchors", anchors)
    if center:
        mean = anchors.mean(dim=-2, keepdim=True)
        z, anchors = z - mean, anchors - mean
    if similarity == "cosine":
        return _unit("sample", z, eps) @ _unit("anchor", anchors, eps).mT
    if similarity == "inner":
        return z @ anchors.mT / math.sqrt(z.shape[-1])
    if similarity == "euclidean":
        return -torch.cdist(z, anchors)
    return z @ torch.linalg.pinv(anchors)


class _RoundStraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, r: Tensor, bin_size: float) -> Tensor:
        return torch.round(r / bin_size) * bin_size

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def quantize_similarity(
    r: Float[Tensor, "*shape"], bin_size: float, mode: Literal["ste_round", "smooth_steps"] = "ste_round"
) -> Float[Tensor, "*shape"]:
    r"""Coarsen similarities so that small differences between two spaces vanish.

    ``"ste_round"`` rounds to multiples of the bin width :math:`b` and lets the gradient pass unchanged;
    ``"smooth_steps"`` is the differentiable staircase :math:`b\,q(r/b)` with
    :math:`q(s) = s - \sin(2\pi s)/(2\pi)`, flat at the multiples of :math:`b`.

    Raises:
        ValueError: unless the bin width is positive.

    Source: Moschella et al., ICLR 2023 (quantised similarities in the official implementation).

    Examples:
        >>> [round(v, 2) for v in quantize_similarity(torch.tensor([0.12, 0.26]), 0.1).tolist()]
        [0.1, 0.3]
    """
    check_number("bin_size", bin_size, low=0, open_low=True)
    check_choice("mode", mode, ["ste_round", "smooth_steps"])
    if mode == "ste_round":
        return cast(Tensor, _RoundStraightThrough.apply(r, bin_size))
    return r - bin_size * torch.sin(2 * math.pi * r / bin_size) / (2 * math.pi)


def stratified_mean(r: Float[Tensor, "*batch k"], anchor_labels: Int[Tensor, " k"]) -> Float[Tensor, "*batch classes"]:
    """Mean similarity to the anchors of every class, classes in increasing order of their label.

    Raises:
        ValueError: unless there is one label per anchor.

    Source: Moschella et al., ICLR 2023 (stratified similarity in the official implementation).

    Examples:
        >>> r = torch.tensor([[1.0, 0.0, 0.5]])
        >>> stratified_mean(r, torch.tensor([7, 7, 9])).tolist()
        [[0.5, 0.5]]
    """
    if anchor_labels.shape != r.shape[-1:]:
        raise ValueError(
            f"there must be one label for each of the {r.shape[-1]} anchors, got shape {tuple(anchor_labels.shape)}"
        )
    _, codes = torch.unique(anchor_labels, return_inverse=True)
    member = F.one_hot(codes).to(r)
    return r @ (member / member.sum(0))
