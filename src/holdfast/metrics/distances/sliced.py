"""Transport along lines, where it is sorting."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from holdfast.core.checks import check_number
from holdfast.metrics.distances.point_sets import point_sets

__all__ = ["random_lines", "sliced_transport"]


def sliced_transport(
    x: Float[Tensor, "*batch n d"],
    y: Float[Tensor, "*batch m d"],
    *,
    p: float = 2.0,
    n_projections: int = 100,
    lines: Float[Tensor, "d lines"] | None = None,
    generator: torch.Generator | None = None,
    x_weights: Float[Tensor, "*batch n"] | None = None,
    y_weights: Float[Tensor, "*batch m"] | None = None,
    x_mask: Bool[Tensor, "*batch n"] | None = None,
    y_mask: Bool[Tensor, "*batch m"] | None = None,
) -> Float[Tensor, "*batch"]:
    r"""Sliced Wasserstein distance to the power ``p``, with gradients for points and weights.

    .. math:: \frac1L \sum_l \int_0^1 \bigl\lvert F^{-1}_{\theta_l^\top x}(s) - F^{-1}_{\theta_l^\top y}(s)
              \bigr\rvert^p ds,\qquad \theta_l \text{ uniform on the sphere}

    Each integral is exact, for sets of different size and weight too.

    Args:
        x, y: sets, (n, d) and (m, d), or batches of them.
        p: power, at least 1.
        n_projections: number of lines L; for d = 1 one line says all and is all that is used.
        lines: the unit vectors, instead of random ones.
        generator: of the lines.
        x_weights, y_weights: of the points, not negative; they are divided by their sum.
        x_mask, y_mask: True where a point counts; the others may hold anything.

    Raises:
        TypeError: for points of another type than floats, or of two types.
        ValueError: for shapes that do not fit, negative weights, or a set without weight.

    Source: Bonneel et al., "Sliced and Radon Wasserstein Barycenters of Measures", J. Mathematical Imaging and Vision
    2015, section 3.

    Examples:
        >>> x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [3.0], [7.0]])
        >>> sliced_transport(x, y[:2]), sliced_transport(x, y, y_weights=torch.tensor([1.0, 1.0, 0.0]))
        (tensor(4.), tensor(4.))
    """
    check_number("p", p, low=1)
    check_number("n_projections", n_projections, low=1, integer=True)
    s = point_sets(x, y, x_weights, y_weights, x_mask, y_mask)
    if lines is None:
        lines = random_lines(s.x, n_projections, generator)
    elif lines.ndim != 2 or len(lines) != s.x.shape[2]:
        raise ValueError(f"lines must have shape ({s.x.shape[2]}, L), got {tuple(lines.shape)}")
    u, v = (points @ lines.to(points) for points in (s.x, s.y))
    u, v = u.mT.contiguous(), v.mT.contiguous()
    if s.a is None and s.b is None:
        return s.out(_equal_weights(u.sort(-1).values, v.sort(-1).values, p))
    (u, F), (v, G) = _quantiles(u, s.a), _quantiles(v, s.b)
    levels = torch.cat([F, G], -1).sort(-1).values
    width = levels.diff(dim=-1, prepend=torch.zeros_like(levels[..., :1]))
    middle = (levels - width / 2).detach()
    # Between two levels both quantile functions are constant.
    u, v = (
        q.gather(-1, torch.searchsorted(c.detach(), middle).clamp_max(q.shape[-1] - 1)) for q, c in ((u, F), (v, G))
    )
    return s.out((width * _power(u - v, p)).sum(-1).mean(1))


def random_lines(x: Tensor, count: int, generator: torch.Generator | None) -> Float[Tensor, "d lines"]:
    """Draw unit vectors of the space and the precision of ``x``, on the generator's device, and take them to x's."""
    d = x.shape[-1]
    if d == 1:
        return x.new_ones(1, 1)
    device = x.device if generator is None else generator.device
    lines = torch.randn(d, count, generator=generator, device=device, dtype=x.dtype).to(x.device)
    return lines / lines.norm(dim=0)


def _power(t: Tensor, p: float) -> Tensor:
    if p == 2:
        return t.square()
    return t.abs() if p == 1 else t.abs().pow(p)


def _equal_weights(u: Tensor, v: Tensor, p: float) -> Tensor:
    """Integrate the gap of two quantile functions of sorted (B, L, n) and (B, L, m)."""
    n, m = u.shape[-1], v.shape[-1]
    if n == m:
        return _power(u - v, p).mean((1, 2))
    # The same levels for all lines.
    i, j = (torch.arange(1, k + 1, dtype=torch.float64, device=u.device) / k for k in (n, m))
    levels = torch.cat([i, j]).sort().values
    width = levels.diff(prepend=levels.new_zeros(1))
    middle = levels - width / 2
    cost = _power(u[..., torch.searchsorted(i, middle)] - v[..., torch.searchsorted(j, middle)], p)
    return (cost @ width.to(u)).mean(1)


def _quantiles(u: Tensor, a: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return sorted points (B, L, n) and how much weight lies up to each."""
    u, order = u.sort(-1)
    n = u.shape[-1]
    if a is None:
        return u, (torch.arange(1, n + 1, dtype=u.dtype, device=u.device) / n).expand(u.shape).contiguous()
    total = a[:, None].expand(u.shape).gather(-1, order).cumsum(-1)
    return u, total / total[..., -1:]
