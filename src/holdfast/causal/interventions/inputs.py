"""Actions, codes and outcomes as matrices of finite numbers, or refused with the reason."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.core.arrays import as_tensor
from holdfast.core.checks import check_finite, check_matrix

__all__ = ["as_matrix", "as_outcome", "check_actions"]


def as_matrix(name: str, x: Any, *, columns: int | None = None) -> Float[Tensor, "n columns"]:
    """Return numbers as a float64 matrix; a vector becomes one column, unless that many columns are asked for.

    Raises:
        ValueError: for text, NaN or infinity, and another number of columns.
    """
    try:
        t = as_tensor(x.to_numpy() if hasattr(x, "to_numpy") else x)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must hold numbers, got {type(x).__name__}: {error}") from error
    if t.is_complex():
        raise ValueError(f"{name} must hold real numbers, got {t.dtype}")
    t = t.detach().to("cpu", torch.float64)
    if t.ndim == 1:
        t = t[None] if columns not in (None, 1) and len(t) == columns else t[:, None]
    check_matrix(name, t, columns=columns)
    check_finite(name, t)
    return t


def as_outcome(y: Any) -> Float[Tensor, " n"]:
    """Return outcomes as a float64 vector.

    Raises:
        ValueError: for text, NaN, infinity, or several columns.
    """
    t = as_matrix("Y", y)
    if t.shape[1] != 1:
        raise ValueError(f"Y must hold one outcome a row, got shape {tuple(t.shape)}")
    return t[:, 0]


def check_actions(A: Float[Tensor, "n k"], d: int, *, allow_underidentified: bool = False) -> None:
    """Raise unless the actions can tell a code of ``d`` numbers that is linear in them from one that is not.

    Raises:
        ValueError: for fewer actions than d, fewer than 50 d rows, actions that are constant or collinear, or fewer
            than d + 2 different ones.
    """
    n, k = A.shape
    if k < d and not allow_underidentified:
        raise ValueError(
            f"a code of {d} numbers needs at least {d} actions that move it, got {k}: lower dim, or pass "
            "allow_underidentified=True and do not rely on what is predicted"
        )
    if n < 50 * d:
        raise ValueError(f"a code of {d} numbers needs at least {50 * d} rows, got {n}")
    centred = A - A.mean(0)
    spread = centred.square().mean(0).sqrt()
    if bool((constant := spread <= 1e-10 * A.abs().amax(0)).any()):
        raise ValueError(
            f"A is constant in column {int(constant.nonzero()[0])}: an action has to vary to be learnt from"
        )
    s = torch.linalg.svdvals(centred / spread)
    if float(s[-1]) <= 1e-7 * float(s[0]):
        raise ValueError("A is collinear: one action is an affine function of the others; drop it")
    different = len(torch.unique(A, dim=0))
    if different < d + 2:
        raise ValueError(
            f"A takes {different} different values: with fewer than {d + 2} any code is linear in it, and nothing can "
            "be tested"
        )
