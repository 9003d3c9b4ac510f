"""Mixtures of Gaussians with exact algebra: conditioning, linear maps, Bayes' rule for linear observations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holdfast.core.checks import check_finite
from holdfast.distribution.mixture import LOG_2PI, Mixture, cholesky, normal_log_prob

__all__ = ["GaussianMixture"]


class GaussianMixture(Mixture):
    r"""A batch of mixtures :math:`\sum_k w_k\, \mathcal N(\mu_k, L_k L_k^\top)`, closed under what a filter needs.

    All weights are kept as logarithms, so far observations do not underflow. The batch may have any shape.

    Args:
        weights: (*B, K), on the simplex within 1e-4; they are normalised.
        means: (*B, K, D).
        scale_tril: (*B, K, D, D), lower Cholesky factors with a positive diagonal.

    Raises:
        ValueError: for weights off the simplex, factors that are not lower triangular with a positive diagonal,
            shapes that do not fit, or values that are not finite.

    Examples:
        A prior with two bumps, and one noisy observation of it.

        >>> prior = GaussianMixture.from_covariance(
        ...     torch.tensor([0.5, 0.5]), torch.tensor([[-2.0], [2.0]]), torch.ones(2, 1, 1)
        ... )
        >>> eye = torch.eye(1)
        >>> posterior = prior.linear_gaussian_update(eye, eye, torch.tensor([1.0]))
        >>> posterior.means.flatten().tolist(), [round(w, 3) for w in posterior.weights.tolist()]
        ([-0.5, 1.5], [0.119, 0.881])
    """

    def __init__(
        self,
        weights: Float[Tensor, "*batch k"],
        means: Float[Tensor, "*batch k dim"],
        scale_tril: Float[Tensor, "*batch k dim dim"],
    ) -> None:
        self.log_weights = self._log_simplex(weights, means)
        if scale_tril.shape != (*means.shape, means.shape[-1]):
            raise ValueError(
                f"scale_tril must have shape {(*means.shape, means.shape[-1])}, got {tuple(scale_tril.shape)}"
            )
        check_finite("scale_tril", scale_tril)
        if bool((scale_tril.triu(1) != 0).any()) or bool((scale_tril.diagonal(dim1=-2, dim2=-1) <= 0).any()):
            raise ValueError(
                "scale_tril must be lower triangular with a positive diagonal; from_covariance takes covariances"
            )
        self.means, self.scale_tril = means, scale_tril

    @classmethod
    def _of(cls, *parts: Tensor) -> Self:
        self = cls.__new__(cls)
        self.log_weights, self.means, self.scale_tril = parts
        return self

    def _parts(self) -> tuple[Tensor, ...]:
        return self.log_weights, self.means, self.scale_tril

    @classmethod
    def from_logits(
        cls,
        logits: Float[Tensor, "*batch k"],
        means: Float[Tensor, "*batch k dim"],
        scale_tril: Float[Tensor, "*batch k dim dim"],
    ) -> Self:
        """Make mixtures with the weights ``softmax(logits)``, unchecked: what a network puts out."""
        return cls._spread(torch.log_softmax(logits, -1), means, scale_tril)

    @classmethod
    def _spread(cls, log_weights: Tensor, means: Tensor, scale_tril: Tensor) -> Self:
        """Give all parts the largest of their batch shapes."""
        shape = torch.broadcast_shapes(log_weights.shape, means.shape[:-1], scale_tril.shape[:-2])
        d = means.shape[-1]
        return cls._of(log_weights.expand(shape), means.expand(*shape, d), scale_tril.expand(*shape, d, d))

    @classmethod
    def from_covariance(
        cls,
        weights: Float[Tensor, "*batch k"],
        means: Float[Tensor, "*batch k dim"],
        covariances: Float[Tensor, "*batch k dim dim"],
    ) -> Self:
        """Make mixtures from covariances (*B, K, D, D), which must be symmetric and positive definite."""
        check_finite("covariances", covariances)
        size = float(covariances.abs().max())
        if covariances.ndim < 2 or not torch.allclose(covariances, covariances.mT, rtol=0, atol=1e-5 * size):
            raise ValueError("covariances must be symmetric")
        return cls(weights, means, cholesky("covariances", (covariances + covariances.mT) / 2))

    @classmethod
    def gaussian(cls, mean: Float[Tensor, "*batch dim"], cov: Float[Tensor, "*batch dim dim"]) -> Self:
        """Make one Gaussian (K = 1)."""
        cov = cov.expand(*mean.shape, mean.shape[-1])
        return cls.from_covariance(torch.ones_like(mean[..., :1]), mean[..., None, :], cov[..., None, :, :])

    @property
    def covariances(self) -> Float[Tensor, "*batch k dim dim"]:
        """The covariance of every component."""
        return self.scale_tril @ self.scale_tril.mT

    def _component_log_prob(self, x: Tensor) -> Tensor:
        if self.dim == 1 or len(x) == 1:
            return normal_log_prob(x[..., None, :] - self.means, self.scale_tril)
        # Points are columns of one triangular system per component.
        centred = x.movedim(0, -1)[..., None, :, :] - self.means[..., None]
        white = torch.linalg.solve_triangular(self.scale_tril, centred, upper=False)
        logdet = self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return -0.5 * (white.square().sum(-2).movedim(-1, 0) + self.dim * LOG_2PI) - logdet

    def _noise(self, rows: Tensor, chosen: Tensor, generator: torch.Generator | None) -> Tensor:
        factor = self.scale_tril.reshape(len(rows), self.n_components, self.dim, self.dim)[rows, chosen]
        eps = torch.randn(*chosen.shape, self.dim, 1, generator=generator, device=rows.device, dtype=factor.dtype)
        return (factor @ eps)[..., 0]

    def marginal(self, dims: Sequence[int] | Int[Tensor, "p"]) -> Self:
        """Return the law of some dimensions, in the order given."""
        seen = self._check_dims(dims)
        covariances = self.covariances[..., seen, :][..., :, seen]
        return self._of(self.log_weights, self.means[..., seen], cholesky("the marginal's covariance", covariances))

    def condition(self, dims: Sequence[int] | Int[Tensor, "p"], value: Float[Tensor, "*batch p"]) -> Self:
        """Return the law of the other dimensions (in their order) given that ``dims`` have the value ``value``."""
        seen, rest = self._split_dims(dims)
        covariances = self.covariances
        block = cholesky("the covariance of dims", covariances[..., seen, :][..., :, seen])
        cross = covariances[..., rest, :][..., :, seen]
        gain = torch.cholesky_solve(cross.mT, block).mT
        centred = value[..., None, :] - self.means[..., seen]
        means = self.means[..., rest] + (gain @ centred[..., None])[..., 0]
        left = covariances[..., rest, :][..., :, rest] - gain @ cross.mT
        logits = self.log_weights + normal_log_prob(centred, block)
        return self.from_logits(logits, means, cholesky("the conditional covariance", (left + left.mT) / 2))

    def affine(
        self,
        A: Float[Tensor, "*batch out dim"],
        b: Float[Tensor, "*batch out"] | None = None,
        Q: Float[Tensor, "*batch out out"] | None = None,
    ) -> Self:
        r"""Return the law of :math:`A x + b + \varepsilon`, :math:`\varepsilon \sim \mathcal N(0, Q)`.

        Weights stay; :math:`\mu_k \to A \mu_k + b` and :math:`\Sigma_k \to A \Sigma_k A^\top + Q`.

        Raises:
            ValueError: where the new covariance is singular (more rows than columns and no noise).
        """
        if A.shape[-1] != self.dim:
            raise ValueError(f"A must have {self.dim} columns, got shape {tuple(A.shape)}")
        maps = A[..., None, :, :]
        means = (maps @ self.means[..., None])[..., 0]
        half = maps @ self.scale_tril
        covariances = half @ half.mT
        means = means if b is None else means + b[..., None, :]
        covariances = covariances if Q is None else covariances + Q[..., None, :, :]
        return self._spread(self.log_weights, means, cholesky("A Sigma A^T + Q", covariances))

    def linear_gaussian_update(
        self,
        H: Float[Tensor, "*batch p dim"],
        R: Float[Tensor, "*batch p p"],
        z: Float[Tensor, "*batch p"],
    ) -> Self:
        r"""Return the exact posterior of x after :math:`z = H x + \varepsilon`, :math:`\varepsilon \sim N(0, R)`.

        Every component goes through the Kalman update (Joseph form) and is weighed by its evidence,
        :math:`w_k \to w_k\, \mathcal N(z; H \mu_k, H \Sigma_k H^\top + R)`.

        Source: Sorenson and Alspach, "Recursive Bayesian estimation using Gaussian sums", Automatica 1971.
        """
        logits, means, factor = self._bayes(H, R, z)
        return self.from_logits(logits, means, factor)

    def log_evidence(
        self,
        H: Float[Tensor, "*batch p dim"],
        R: Float[Tensor, "*batch p p"],
        z: Float[Tensor, "*batch p"],
    ) -> Float[Tensor, "*batch"]:
        """Return the log-density of the observation ``z = H x + noise`` with noise of covariance ``R``."""
        return torch.logsumexp(self._bayes(H, R, z)[0], -1)

    def _bayes(self, H: Tensor, R: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if H.shape[-1] != self.dim or R.shape[-2:] != (H.shape[-2], H.shape[-2]) or z.shape[-1] != H.shape[-2]:
            raise ValueError(
                f"H must be (p, {self.dim}), R (p, p) and z (p,), got {tuple(H.shape)}, {tuple(R.shape)} and "
                f"{tuple(z.shape)}"
            )
        check_finite("z", z)
        H, z = H[..., None, :, :], z[..., None, :]
        noise = cholesky("R", R)[..., None, :, :]
        return _bayes(self.log_weights, self.means, self.scale_tril, H, noise, z)

    def product(self, other: GaussianMixture) -> Self:
        """Return the normalised product of the densities, a mixture of K K' components."""
        return self.from_logits(*self._times(other))

    def log_overlap(self, other: GaussianMixture) -> Float[Tensor, "*batch"]:
        r"""Return :math:`\log \int p(x) q(x)\,dx`, the constant that :meth:`product` divides by."""
        return torch.logsumexp(self._times(other)[0], -1)

    def _times(self, other: GaussianMixture) -> tuple[Tensor, Tensor, Tensor]:
        if other.dim != self.dim or other.batch_shape != self.batch_shape:
            raise ValueError(f"a product needs mixtures of one batch and dimension, got {self} and {other}")
        logits, means, factor = _bayes(
            self.log_weights[..., :, None] + other.log_weights[..., None, :],
            self.means[..., :, None, :],
            self.scale_tril[..., :, None, :, :],
            torch.eye(self.dim, dtype=self.means.dtype, device=self.means.device),
            other.scale_tril[..., None, :, :, :],
            other.means[..., None, :, :],
        )
        lead = len(self.batch_shape)
        return logits.flatten(lead), means.flatten(lead, lead + 1), factor.flatten(lead, lead + 1)

    def moment_match(self) -> Self:
        """Return the Gaussian (K = 1) with the same mean and covariance: the nearest in KL(p || q)."""
        factor = cholesky("the mixture's covariance", self.cov)
        return self._of(torch.zeros_like(self.log_weights[..., :1]), self.mean[..., None, :], factor[..., None, :, :])

    def pad_components(self, K: int) -> Self:
        """Return the same density with ``K`` components: heavy ones are divided into unequal shares.

        Shares are in the ratio 1 : 2 : ..., as a network that treats components alike could never tell equal ones
        apart.

        Raises:
            ValueError: for fewer components than there are; see :meth:`reduce_components`.
        """
        k = self.n_components
        if k > K:
            raise ValueError(f"pad_components cannot go from {k} down to {K} components; use reduce_components({K})")
        order = torch.sort(self.log_weights, dim=-1, descending=True, stable=True).indices
        place = torch.arange(K, device=order.device)
        copy, among = place // k, place % k
        copies = (K - among + k - 1) // k
        share = 2 * (copy + 1).to(self.means.dtype) / (copies * (copies + 1))
        index = order[..., among]
        return self._of(
            self.log_weights.gather(-1, index) + share.log(), *(_pick(t, index) for t in (self.means, self.scale_tril))
        )

    def reduce_components(self, K: int) -> Self:
        r"""Return mixtures of ``K`` components with the same mean and covariance: the cheapest pairs are merged.

        A pair is merged to its moments, at the cost :math:`\tfrac12 [(w_i + w_j) \log |\Sigma_{ij}| - w_i \log
        |\Sigma_i| - w_j \log |\Sigma_j|]`, a bound on what it changes in KL.

        Raises:
            ValueError: for more components than there are; see :meth:`pad_components`.

        Source: Runnalls, "Kullback-Leibler approach to Gaussian mixture reduction", IEEE T-AES 2007, section IV.
        """
        if not 1 <= K <= self.n_components:
            raise ValueError(
                f"reduce_components can go from {self.n_components} to 1..{self.n_components} components, got {K}; "
                "pad_components adds some"
            )
        k, d = self.n_components, self.dim
        w, m = self.weights.reshape(-1, k), self.means.reshape(-1, k, d)
        S = self.covariances.reshape(-1, k, d, d)
        for size in range(k, K, -1):
            i, j = torch.triu_indices(size, size, offset=1, device=w.device)
            both, mean, cov = _merge(w, m, S, i, j)
            logdet = torch.linalg.slogdet(S).logabsdet
            cost = both * torch.linalg.slogdet(cov).logabsdet - w[:, i] * logdet[:, i] - w[:, j] * logdet[:, j]
            best = cost.argmin(1)
            rows = torch.arange(len(w), device=w.device)
            gone = torch.zeros(len(w), size, dtype=torch.bool, device=w.device)
            gone[rows, i[best]] = gone[rows, j[best]] = True
            keep = (~gone).nonzero()[:, 1].view(len(w), size - 2)
            w = torch.cat([w.gather(1, keep), both[rows, best][:, None]], 1)
            m = torch.cat([_pick(m, keep), mean[rows, best][:, None]], 1)
            S = torch.cat([_pick(S, keep), cov[rows, best][:, None]], 1)
        tiny = torch.finfo(w.dtype).tiny
        shape = self.batch_shape
        return self._of(
            torch.log_softmax(w.clamp_min(tiny).log(), -1).reshape(*shape, K),
            m.reshape(*shape, K, d),
            cholesky("a merged covariance", S).reshape(*shape, K, d, d),
        )


def _bayes(
    log_weights: Tensor, means: Tensor, factor: Tensor, H: Tensor, noise: Tensor, z: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Kalman update (Joseph form) of every component, and its log-weight plus log-evidence."""
    half = H @ factor
    root = cholesky("H Sigma H^T + R", half @ half.mT + noise @ noise.mT)
    gain = torch.cholesky_solve(half @ factor.mT, root).mT
    centred = z - (H @ means[..., None])[..., 0]
    updated = means + (gain @ centred[..., None])[..., 0]
    shrunk, spread = factor - gain @ half, gain @ noise
    covariance = shrunk @ shrunk.mT + spread @ spread.mT
    return log_weights + normal_log_prob(centred, root), updated, cholesky("the posterior covariance", covariance)


def _merge(w: Tensor, m: Tensor, S: Tensor, i: Tensor, j: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    both = (w[:, i] + w[:, j]).clamp_min(torch.finfo(w.dtype).tiny)
    a, b = (w[:, i] / both)[..., None], (w[:, j] / both)[..., None]
    gap = m[:, i] - m[:, j]
    cov = a[..., None] * S[:, i] + b[..., None] * S[:, j] + (a * b)[..., None] * gap[..., :, None] * gap[..., None, :]
    return both, a * m[:, i] + b * m[:, j], cov


def _pick(t: Tensor, index: Tensor) -> Tensor:
    """Take components ``index`` (*B, K') of a tensor (*B, K, ...)."""
    extra = t.ndim - index.ndim
    at = index.reshape(*index.shape, *[1] * extra).expand(*index.shape, *t.shape[index.ndim :])
    return t.gather(index.ndim - 1, at)
