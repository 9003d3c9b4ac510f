"""Batches of weighted, padded point sets: what is accepted, and what all distances between them share."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = [
    "PointSets",
    "average",
    "mean_square",
    "mean_squared_distance",
    "median_distance",
    "point_sets",
    "squared_distances",
]


_FEWEST = {1: "one point", 2: "two points"}


class PointSets(NamedTuple):
    """Two batches of sets: points ``x`` (B, n, d) and ``y`` (B, m, d), weights that add up to 1 or None if equal."""

    x: Tensor
    y: Tensor
    a: Tensor | None
    b: Tensor | None
    batched: bool

    def weights(self) -> tuple[Tensor, Tensor]:
        """Return the weights (B, n) and (B, m), equal ones written out."""
        a, b = (
            t.new_full(t.shape[:2], 1 / t.shape[1]) if w is None else w for t, w in ((self.x, self.a), (self.y, self.b))
        )
        return a, b

    def out(self, value: Tensor) -> Tensor:
        """Return ``value`` (B, ...) without the batch where none came in."""
        return value if self.batched else value[0]


def point_sets(
    x: Tensor,
    y: Tensor,
    x_weights: Tensor | None = None,
    y_weights: Tensor | None = None,
    x_mask: Tensor | None = None,
    y_mask: Tensor | None = None,
    *,
    least: int = 1,
) -> PointSets:
    """Check two sides and bring them to one form; points outside a mask move to the mean of the others, without weight.

    Values of weights and masks are not looked at while ``torch.compile`` traces.
    """
    for name, t in (("x", x), ("y", y)):
        if not isinstance(t, Tensor) or not t.is_floating_point():
            raise TypeError(f"{name} must be a floating tensor, got {getattr(t, 'dtype', type(t).__name__)}")
    if x.dtype != y.dtype:
        raise TypeError(f"x and y must have one dtype, got {x.dtype} and {y.dtype}")
    if x.ndim not in (2, 3) or y.ndim != x.ndim:
        raise ValueError(
            f"x and y must be sets (n, d) and (m, d), or batches of them, got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    if x.shape[-1] != y.shape[-1]:
        raise ValueError(f"x and y must have equally many columns, got {x.shape[-1]} and {y.shape[-1]}")
    batched = x.ndim == 3
    if batched and len(x) != len(y):
        raise ValueError(f"x and y must hold equally many sets, got {len(x)} and {len(y)}")
    if min(x.shape[-2], y.shape[-2]) < least or 0 in x.shape:
        raise ValueError(f"each set needs at least {_FEWEST[least]}, got {tuple(x.shape)} and {tuple(y.shape)}")
    if not batched:
        x, y = x[None], y[None]
    x, a = _side("x", x, x_weights, x_mask, least)
    y, b = _side("y", y, y_weights, y_mask, least)
    return PointSets(x, y, a, b, batched)


def _side(
    name: str, x: Tensor, weights: Tensor | None, mask: Tensor | None, least: int
) -> tuple[Tensor, Tensor | None]:
    if weights is None and mask is None:
        return x, None
    looks = not torch.compiler.is_compiling()
    a = x.new_ones(x.shape[:2]) if weights is None else _spread(f"{name}_weights", weights, x).to(x)
    if mask is not None:
        if mask.dtype != torch.bool:
            raise TypeError(f"{name}_mask must be boolean, True where a point counts, got {mask.dtype}")
        keep = _spread(f"{name}_mask", mask, x)
        a = torch.where(keep, a, 0)
        # Padding lies among the points, so that it moves neither a centre nor a largest distance.
        kept = torch.where(keep[..., None], x, 0)
        middle = kept.detach().sum(1, keepdim=True) / keep.sum(1).clamp_min(1)[:, None, None]
        x = torch.where(keep[..., None], x, middle)
    if weights is not None and looks and not bool((a >= 0).all() & a.isfinite().all()):
        raise ValueError(f"{name}_weights must be finite and not negative")
    if looks:
        count = (a > 0).sum(1)
        if bool((count < least).any()):
            raise ValueError(
                f"each set of {name} needs at least {_FEWEST[least]} with weight, but set {int(count.argmin())} has "
                f"{int(count.min())}"
            )
    return x, a / a.sum(1, keepdim=True)


def _spread(name: str, t: Tensor, x: Tensor) -> Tensor:
    if t.shape != x.shape[:2] and t.shape != x.shape[1:2]:
        raise ValueError(
            f"{name} must have one entry per point, {tuple(x.shape[:2])} or {tuple(x.shape[1:2])}, got {tuple(t.shape)}"
        )
    return t.to(x.device).expand(x.shape[:2])


def squared_distances(x: Float[Tensor, "batch n d"], y: Float[Tensor, "batch m d"]) -> Float[Tensor, "batch n m"]:
    """Return all squared distances: by differences in float64, by one matrix product in lower precision.

    The product is taken about a common centre, so that its rounding is that of the spread and not of the place.
    """
    if x.dtype == torch.float64:
        return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()
    centre = x.detach().mean(1, keepdim=True)
    x, y = x - centre, y - centre
    return (x.square().sum(-1)[:, :, None] + y.square().sum(-1)[:, None] - 2 * x @ y.mT).clamp_min(0)


def average(k: Tensor, a: Tensor | None, b: Tensor | None) -> Float[Tensor, " batch"]:
    """Return the mean of ``k`` (B, n, m) over the product of the weights."""
    rows = k.mean(2) if b is None else (k @ b[..., None])[..., 0]
    return rows.mean(1) if a is None else (a * rows).sum(1)


def mean_squared_distance(
    x: Float[Tensor, "*batch n d"],
    y: Float[Tensor, "*batch m d"],
    *,
    x_weights: Float[Tensor, "*batch n"] | None = None,
    y_weights: Float[Tensor, "*batch m"] | None = None,
    x_mask: Bool[Tensor, "*batch n"] | None = None,
    y_mask: Bool[Tensor, "*batch m"] | None = None,
) -> Float[Tensor, "*batch"]:
    r"""Mean squared distance between two sets, the natural unit of an entropic weight, in one pass over the points.

    .. math:: E \lVert x - y \rVert^2 = \lVert m_x - m_y \rVert^2 + E \lVert x - m_x \rVert^2
              + E \lVert y - m_y \rVert^2

    Examples:
        >>> mean_squared_distance(torch.zeros(2, 1), torch.tensor([[1.0], [3.0]]))
        tensor(5.)
    """
    s = point_sets(x, y, x_weights, y_weights, x_mask, y_mask)
    return s.out(mean_square(s.x, s.y, *s.weights()))


def mean_square(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Float[Tensor, " batch"]:
    """Return :func:`mean_squared_distance` of batches whose weights add up to 1."""
    means, spread = [], x.new_zeros(len(x))
    for points, w in ((x, a), (y, b)):
        mean = (w[..., None] * points).sum(1, keepdim=True)
        spread = spread + (w * (points - mean).square().sum(-1)).sum(1)
        means.append(mean[:, 0])
    return spread + (means[0] - means[1]).square().sum(-1)


def median_distance(
    x: Float[Tensor, "*batch n d"],
    y: Float[Tensor, "*batch m d"] | None = None,
    *,
    x_mask: Bool[Tensor, "*batch n"] | None = None,
    y_mask: Bool[Tensor, "*batch m"] | None = None,
) -> Float[Tensor, "*batch"]:
    """Median distance of two different points of a set, or of the pool of two, outside the graph of gradients.

    Raises:
        ValueError: for sets of one point.

    Examples:
        >>> median_distance(torch.tensor([[0.0], [1.0], [5.0]]))
        tensor(4.)
    """
    pool = [x] if y is None else [x, y]
    s = point_sets(x, x if y is None else y, x_mask=x_mask, y_mask=x_mask if y is None else y_mask, least=2)
    with torch.no_grad():
        points = torch.cat([s.x, s.y][: len(pool)], 1)
        n = points.shape[1]
        i, j = torch.triu_indices(n, n, offset=1, device=x.device).unbind()
        d = squared_distances(points, points)[:, i, j]
        if s.a is None and s.b is None:
            return s.out(d.median(1).values.sqrt())
        keep = torch.cat(s.weights()[: len(pool)], 1) > 0
        d = torch.where(keep[:, i] & keep[:, j], d, torch.nan)
        return s.out(d.nanmedian(1).values.sqrt())
