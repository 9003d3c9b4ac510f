"""Whether a code recovers hidden variables: up to an affine map, or entry by entry."""

from __future__ import annotations

from typing import Any

import torch

from holdfast.metrics._inputs import as_pair, centred

__all__ = ["affine_r2", "mcc"]


def affine_r2(code: Any, Z: Any) -> float:
    r"""Share of the variance of hidden variables that the best affine function of a code explains.

    .. math:: \frac1d \sum_j \Bigl(1 - \frac{\min_{h, c} \sum_i (Z_{ij} - h^\top \phi_i - c)^2}
              {\sum_i (Z_{ij} - \bar Z_j)^2}\Bigr)

    1 where the code is the hidden variables up to an invertible affine map; no such map of the code changes it. It is
    measured on the rows given: with few rows and a long code it is too high. For an estimate out of sample see
    :func:`holdfast.metrics.ridge_r2`.

    Args:
        code: (n, p).
        Z: (n, d) hidden variables.

    Raises:
        ValueError: for lengths that differ, not more rows than p + 1, or a hidden variable that is constant.

    Source: Saengkyongam et al., "Identifying representations for intervention extrapolation", ICLR 2024, section 6.

    Examples:
        >>> Z = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
        >>> round(affine_r2(Z @ torch.tensor([[1.0, 2.0], [0.0, 3.0]]) + 5, Z), 6)
        1.0
    """
    x, z = as_pair("code", code, "Z", Z)
    if len(x) <= x.shape[1] + 1:
        raise ValueError(f"an affine function of {x.shape[1]} numbers needs more rows, got {len(x)}")
    x, z = centred("code", x), z - z.mean(0)
    total = z.square().sum(0)
    if bool((total == 0).any()):
        raise ValueError(f"Z is constant in column {int((total == 0).nonzero()[0])}: there is nothing to explain")
    u, s, _ = torch.linalg.svd(x, full_matrices=False)
    u = u[:, s > s[0] * len(x) * torch.finfo(x.dtype).eps]
    return float(((u.T @ z).square().sum(0) / total).mean())


def mcc(code: Any, Z: Any) -> float:
    r"""Mean correlation coefficient: how well the entries of a code are the hidden variables, one for one.

    .. math:: \max_{\pi} \frac1d \sum_j \bigl|\mathrm{corr}(\phi_{\pi(j)}, Z_j)\bigr|

    over one-to-one assignments. Order, sign and scale of the entries do not matter; mixtures of them do, so a code
    that is right up to an affine map only can have a low value.

    Args:
        code: (n, p) with p at least d.
        Z: (n, d) hidden variables.

    Raises:
        ValueError: for lengths that differ, fewer entries than hidden variables, or a constant column.

    Source: Hyvarinen and Morioka, "Unsupervised feature extraction by time-contrastive learning and nonlinear ICA",
    NeurIPS 2016.

    Examples:
        >>> Z = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
        >>> round(mcc(-3 * Z.flip(1), Z), 6)
        1.0
    """
    from scipy.optimize import linear_sum_assignment

    x, z = as_pair("code", code, "Z", Z)
    d = z.shape[1]
    if x.shape[1] < d:
        raise ValueError(f"every hidden variable needs an entry of its own, got {x.shape[1]} entries for {d}")
    x, z = x - x.mean(0), z - z.mean(0)
    for name, t in (("code", x), ("Z", z)):
        if bool((t.abs().max(0).values == 0).any()):
            raise ValueError(f"{name} is constant in a column, and correlates with nothing")
    correlation = ((x / x.norm(dim=0)).T @ (z / z.norm(dim=0))).abs().cpu().numpy()
    rows, columns = linear_sum_assignment(-correlation)
    return float(correlation[rows, columns].mean())
