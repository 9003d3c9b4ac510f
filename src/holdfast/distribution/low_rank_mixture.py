"""Mixtures of Gaussians whose covariances are low rank plus diagonal, for many dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holdfast.core.checks import check_finite
from holdfast.distribution.gaussian_mixture import GaussianMixture
from holdfast.distribution.mixture import LOG_2PI, Mixture, cholesky

__all__ = ["LowRankGaussianMixture"]


class LowRankGaussianMixture(Mixture):
    r"""A batch of mixtures :math:`\sum_k w_k\, \mathcal N(\mu_k, U_k U_k^\top + \mathrm{diag}(s_k))`.

    Densities cost :math:`O(D R^2)` per component (Woodbury), and marginals and conditionals stay low rank.

    Args:
        weights: (*B, K), on the simplex within 1e-4; they are normalised.
        means: (*B, K, D).
        factor: U, (*B, K, D, R).
        diag: s, (*B, K, D), positive.

    Raises:
        ValueError: for weights off the simplex, a diagonal that is not positive, shapes that do not fit, or values
            that are not finite.

    Examples:
        >>> line = torch.ones(1, 50, 1)
        >>> p = LowRankGaussianMixture(torch.ones(1), torch.zeros(1, 50), line, 0.1 * torch.ones(1, 50))
        >>> p.condition(range(49), torch.full((49,), 2.0)).mean.round(decimals=2)
        tensor([2.])
    """

    def __init__(
        self,
        weights: Float[Tensor, "*batch k"],
        means: Float[Tensor, "*batch k dim"],
        factor: Float[Tensor, "*batch k dim rank"],
        diag: Float[Tensor, "*batch k dim"],
    ) -> None:
        self.log_weights = self._log_simplex(weights, means)
        if factor.shape[:-1] != means.shape or diag.shape != means.shape or factor.shape[-1] == 0:
            raise ValueError(
                f"factor must be {(*means.shape, 'R')} and diag {tuple(means.shape)}, got {tuple(factor.shape)} and "
                f"{tuple(diag.shape)}"
            )
        check_finite("factor", factor)
        check_finite("diag", diag)
        if float(diag.min()) <= 0:
            raise ValueError(f"diag must be positive, got {float(diag.min()):g}")
        self.means, self.factor, self.diag = means, factor, diag

    @classmethod
    def _of(cls, *parts: Tensor) -> Self:
        self = cls.__new__(cls)
        self.log_weights, self.means, self.factor, self.diag = parts
        return self

    def _parts(self) -> tuple[Tensor, ...]:
        return self.log_weights, self.means, self.factor, self.diag

    @property
    def rank(self) -> int:
        """The number of columns R of the factor."""
        return self.factor.shape[-1]

    @property
    def covariances(self) -> Float[Tensor, "*batch k dim dim"]:
        """The covariance of every component."""
        return self.factor @ self.factor.mT + torch.diag_embed(self.diag)

    def full(self) -> GaussianMixture:
        """Return the same mixtures with full covariances, which have more algebra."""
        return GaussianMixture._of(self.log_weights, self.means, cholesky("covariances", self.covariances))

    def _component_log_prob(self, x: Tensor) -> Tensor:
        centred = x.movedim(0, -1)[..., None, :, :] - self.means[..., None]
        quadratic, logdet, _ = _woodbury(centred, self.factor, self.diag)
        return -0.5 * (quadratic.movedim(-1, 0) + logdet + self.dim * LOG_2PI)

    def _noise(self, rows: Tensor, chosen: Tensor, generator: torch.Generator | None) -> Tensor:
        factor = self.factor.reshape(len(rows), self.n_components, self.dim, self.rank)[rows, chosen]
        diag = self.diag.reshape(len(rows), self.n_components, self.dim)[rows, chosen]
        options = {"generator": generator, "device": rows.device, "dtype": diag.dtype}
        along = torch.randn(*chosen.shape, self.rank, 1, **options)
        return (factor @ along)[..., 0] + diag.sqrt() * torch.randn(diag.shape, **options)

    def marginal(self, dims: Sequence[int] | Int[Tensor, "p"]) -> Self:
        """Return the law of some dimensions, in the order given."""
        seen = self._check_dims(dims)
        return self._of(self.log_weights, self.means[..., seen], self.factor[..., seen, :], self.diag[..., seen])

    def condition(self, dims: Sequence[int] | Int[Tensor, "p"], value: Float[Tensor, "*batch p"]) -> Self:
        r"""Return the law of the other dimensions (in their order) given that ``dims`` have the value ``value``.

        With :math:`C = I + U_o^\top s_o^{-1} U_o` over the observed rows, the factor becomes
        :math:`U_r C^{-1/2}`, and the diagonal stays.
        """
        seen, rest = self._split_dims(dims)
        centred = (value[..., None, :] - self.means[..., seen])[..., None]
        U, s = self.factor[..., seen, :], self.diag[..., seen]
        quadratic, logdet, root = _woodbury(centred, U, s)
        code = torch.cholesky_solve(U.mT @ (centred / s[..., None]), root)
        left = self.factor[..., rest, :]
        means = self.means[..., rest] + (left @ code)[..., 0]
        factor = torch.linalg.solve_triangular(root, left.mT, upper=False).mT
        log_weights = torch.log_softmax(self.log_weights - 0.5 * (quadratic[..., 0] + logdet), -1)
        shape = log_weights.shape
        diag = self.diag[..., rest]
        return self._of(
            log_weights, means, factor.expand(*shape, *factor.shape[-2:]), diag.expand(*shape, diag.shape[-1])
        )


def _woodbury(centred: Tensor, U: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the squared Mahalanobis distances of columns, the log-determinant and the capacitance's factor."""
    scaled = U / s[..., None]
    eye = torch.eye(U.shape[-1], dtype=U.dtype, device=U.device)
    root = cholesky("the capacitance", eye + U.mT @ scaled)
    white = torch.linalg.solve_triangular(root, scaled.mT @ centred, upper=False)
    quadratic = (centred.square() / s[..., None]).sum(-2) - white.square().sum(-2)
    logdet = s.log().sum(-1) + 2 * root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return quadratic, logdet, root
