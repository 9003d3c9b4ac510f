"""Contrastive losses between two views of the same samples."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from holdfast.core.checks import check_number

__all__ = ["info_nce", "nt_xent"]


def _pair(a: Tensor, b: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    check_number("temperature", temperature, low=0, open_low=True)
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(f"the two views must have one shape (batch, d), got {tuple(a.shape)} and {tuple(b.shape)}")
    if len(a) < 2:
        raise ValueError("a contrast needs at least 2 samples in a batch, got 1")
    # Half precision is too coarse for norms and for exponentials of similarity over temperature.
    return F.normalize(a.float(), dim=1), F.normalize(b.float(), dim=1)


def info_nce(
    a: Float[Tensor, "batch d"], b: Float[Tensor, "batch d"], temperature: float = 0.1
) -> Float[Tensor, " batch"]:
    r"""Tell sample :math:`i` of view ``b`` from the others by view ``a``: cross-entropy of cosines.

    .. math:: \ell_i = -\log \frac{e^{\cos(a_i, b_i)/\tau}}{\sum_j e^{\cos(a_i, b_j)/\tau}}

    Returns:
        One loss per sample, in float32; take the mean.

    Raises:
        ValueError: for views of different shapes, fewer than two samples, or a temperature that is not positive.

    Source: van den Oord, Li and Vinyals, "Representation learning with contrastive predictive coding", 2018.

    Examples:
        >>> round(float(info_nce(torch.eye(2), torch.eye(2), temperature=1.0).mean()), 4)  # log(1 + e^-1)
        0.3133
    """
    a, b = _pair(a, b, temperature)
    logits = a @ b.T / temperature
    return logits.logsumexp(dim=1) - logits.diagonal()


def nt_xent(
    a: Float[Tensor, "batch d"], b: Float[Tensor, "batch d"], temperature: float = 0.5
) -> Float[Tensor, " batch"]:
    r"""Like :func:`info_nce`, but the other samples of *both* views repel, and both views are anchors in turn.

    .. math:: \ell_i = \tfrac12 \sum_{(u, v) \in \{(a, b), (b, a)\}}
              -\log \frac{e^{\cos(u_i, v_i)/\tau}}
              {\sum_{j} e^{\cos(u_i, v_j)/\tau} + \sum_{j \ne i} e^{\cos(u_i, u_j)/\tau}}

    Returns:
        One loss per sample, in float32; take the mean.

    Raises:
        ValueError: for views of different shapes, fewer than two samples, or a temperature that is not positive.

    Source: Chen, Kornblith, Norouzi and Hinton, "A simple framework for contrastive learning of visual
    representations", ICML 2020, equation 1.

    Examples:
        >>> round(float(nt_xent(torch.eye(2), torch.eye(2), temperature=1.0).mean()), 4)  # log(1 + 2 e^-1)
        0.5514
    """
    a, b = _pair(a, b, temperature)
    z = torch.cat([a, b])
    logits = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    positive = (a * b).sum(dim=1) / temperature
    first, second = logits.logsumexp(dim=1).chunk(2)
    return (first + second) / 2 - positive
