"""Mixtures of Gaussians on low-dimensional subspaces, and everything exact about their noised versions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holdfast.core.checks import check_finite, check_number
from holdfast.core.grassmann import check_orthonormal, random_frame, retract
from holdfast.distribution.subspaces.law import Law, posterior, posterior_mean, stack_frames

__all__ = ["MixtureOfLowRankGaussians", "check_dims", "random_subspaces"]


def check_dims(dims: Sequence[int], n: int) -> tuple[int, ...]:
    """Return the dimensions of the subspaces, or raise unless each lies in 1..n - 1."""
    found = tuple(int(check_number("dims", d, integer=True)) for d in dims)
    if not found:
        raise ValueError("dims must name the dimension of at least one subspace")
    for k, d in enumerate(found):
        if not 1 <= d < n:
            raise ValueError(f"a subspace of {n} dimensions has 1 to {n - 1}, but dims[{k}] is {d}")
    return found


def random_subspaces(
    n: int, dims: Sequence[int], *, orthogonal: bool = True, generator: torch.Generator | None = None
) -> list[Float[Tensor, "n d"]]:
    """Return orthonormal bases of random subspaces of R^n, mutually orthogonal or independent of each other.

    Raises:
        ValueError: for dimensions outside 1..n - 1, or orthogonal subspaces that do not fit into n dimensions.

    Examples:
        >>> U, V = random_subspaces(6, (2, 3), generator=torch.Generator().manual_seed(0))
        >>> bool((U.T @ V).abs().max() < 1e-6)
        True
    """
    dims = check_dims(dims, n)
    if not orthogonal:
        return [random_frame(n, d, generator=generator) for d in dims]
    if sum(dims) > n:
        raise ValueError(f"orthogonal subspaces of {sum(dims)} dimensions in all do not fit into {n}")
    return list(random_frame(n, sum(dims), generator=generator).split(dims, dim=1))


class MixtureOfLowRankGaussians:
    r"""A mixture :math:`\sum_k \pi_k\, \mathcal N(\mu_k,\; U_k\,\mathrm{diag}(\lambda_k)\,U_k^\top)` on subspaces.

    It has no density, but under noise, :math:`x_t = s x_0 + \gamma \epsilon`, it does, and posterior mean, score and
    responsibilities are exact:

    .. math:: E[x_0 \mid x_t] = \sum_k w_k(x_t) \Big(\mu_k + U_k\,
        \mathrm{diag}\Big(\frac{s\lambda_{kj}}{s^2\lambda_{kj} + \gamma^2}\Big)\, U_k^\top (x_t - s\mu_k)\Big)

    For mixtures that fill the space see :class:`holdfast.distribution.LowRankGaussianMixture`.

    Args:
        bases: (n, d_k) orthonormal within 1e-3, one for every component.
        weights: on the simplex within 1e-4; equal by default.
        eigenvalues: (d_k,) positive variances along the columns; 1 by default.
        means: (n,) of every component; 0 by default.
        orthonormalise: take the span of the columns instead of refusing bases that are not orthonormal.

    Raises:
        ValueError: for dimensions outside 1..n - 1, bases that are not orthonormal, weights off the simplex,
            eigenvalues that are not positive, shapes that do not fit, or values that are not finite.

    Source: Wang et al., "Diffusion models learn low-dimensional distributions via subspace clustering", 2024.

    Examples:
        >>> x_axis, y_axis = torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0], [1.0]])
        >>> p = MixtureOfLowRankGaussians([x_axis, y_axis])
        >>> p.posterior_mean(torch.tensor([[2.0, 0.1]]), 1.0, 0.1).round(decimals=2)  # onto the nearer axis
        tensor([[1.9800, 0.0000]])
    """

    def __init__(
        self,
        bases: Sequence[Float[Tensor, "n d"]],
        weights: Sequence[float] | Tensor | None = None,
        eigenvalues: Sequence[Tensor] | None = None,
        means: Sequence[Tensor] | Float[Tensor, "k n"] | None = None,
        *,
        orthonormalise: bool = False,
    ) -> None:
        if not len(bases):
            raise ValueError("bases must hold at least one subspace")
        for k, U in enumerate(bases):
            check_orthonormal(f"bases[{k}]", U, tolerance=math.inf if orthonormalise else 1e-3)
            if U.ndim != 2 or len(U) != len(bases[0]):
                raise ValueError(f"bases[{k}] must have shape ({len(bases[0])}, d), got {tuple(U.shape)}")
        like, K, n = bases[0], len(bases), len(bases[0])
        self.dims = check_dims([U.shape[1] for U in bases], n)
        frames = [U.detach().to(like) for U in bases]
        if orthonormalise:
            for k, U in enumerate(frames):
                if int(torch.linalg.matrix_rank(U)) < U.shape[1]:
                    raise ValueError(f"the columns of bases[{k}] are linearly dependent: they span no subspace of d_k")
            frames = [retract(U) for U in frames]
        w = torch.full((K,), 1 / K).to(like) if weights is None else torch.as_tensor(weights).to(like)
        check_finite("weights", w)
        if w.shape != (K,) or float(w.min()) < 0 or abs(float(w.sum()) - 1) > 1e-4:
            raise ValueError(
                f"weights must be {K} non-negative numbers that add up to 1 within 0.0001, got {w.tolist()}"
            )
        lambdas = [torch.ones(d).to(like) for d in self.dims]
        if eigenvalues is not None:
            lambdas = [torch.as_tensor(v).to(like) for v in eigenvalues]
            if [tuple(v.shape) for v in lambdas] != [(d,) for d in self.dims]:
                raise ValueError(
                    f"eigenvalues must have the lengths {self.dims}, got shapes {[tuple(v.shape) for v in lambdas]}"
                )
            for k, v in enumerate(lambdas):
                check_finite(f"eigenvalues[{k}]", v)
                if float(v.min()) <= 0:
                    raise ValueError(
                        f"eigenvalues must be positive, but the least of component {k} is {float(v.min())}"
                    )
        mu = None
        if means is not None:
            mu = torch.stack([torch.as_tensor(m) for m in means]).to(like)
            if mu.shape != (K, n):
                raise ValueError(f"means must have shape ({K}, {n}), got {tuple(mu.shape)}")
            check_finite("means", mu)
        width = max(self.dims)
        padded = torch.stack([torch.nn.functional.pad(v, (0, width - len(v))) for v in lambdas])
        log_weights = (w / w.sum()).clamp_min(torch.finfo(w.dtype).tiny).log()
        self.law = Law(stack_frames(frames), padded, log_weights, mu)

    @classmethod
    def _of(cls, law: Law, dims: tuple[int, ...]) -> MixtureOfLowRankGaussians:
        self = cls.__new__(cls)
        self.law, self.dims = law, dims
        return self

    @property
    def dim(self) -> int:
        """The dimension n of the space."""
        return self.law.frames.shape[1]

    @property
    def n_components(self) -> int:
        """The number of components K."""
        return len(self.dims)

    @property
    def weights(self) -> Float[Tensor, " k"]:
        """The weights, which add up to 1."""
        return self.law.log_weights.exp()

    @property
    def bases(self) -> list[Float[Tensor, "n d"]]:
        """The orthonormal bases."""
        return [U[:, :d] for U, d in zip(self.law.frames, self.dims)]

    @property
    def mean(self) -> Float[Tensor, " n"]:
        """The mean of the mixture."""
        if self.law.means is None:
            return self.law.frames.new_zeros(self.dim)
        return self.weights @ self.law.means

    @property
    def cov(self) -> Float[Tensor, "n n"]:
        """The covariance of the mixture: within components plus between them."""
        U, w = self.law.frames, self.weights
        cov = torch.einsum("k,kid,kd,kjd->ij", w, U, self.law.eigenvalues, U)
        if self.law.means is not None:
            away = self.law.means - self.mean
            cov = cov + torch.einsum("k,ki,kj->ij", w, away, away)
        return cov

    def __repr__(self) -> str:
        return f"{type(self).__name__}(dim={self.dim}, dims={self.dims})"

    def to(self, *args: object, **kwargs: object) -> MixtureOfLowRankGaussians:
        """Return the mixture on another device, or in another precision (see ``torch.Tensor.to``)."""
        return self._of(Law(*(None if t is None else t.to(*args, **kwargs) for t in self.law)), self.dims)  # pyright: ignore

    @torch.no_grad()
    def sample(self, m: int, generator: torch.Generator | None = None) -> Float[Tensor, "m n"]:
        """Draw ``m`` points."""
        return self.sample_labelled(m, generator)[0]

    @torch.no_grad()
    def sample_labelled(
        self, m: int | Sequence[int], generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "m n"], Int[Tensor, " m"]]:
        """Draw ``m`` points with their components, or ``m[k]`` points of every component k in order."""
        U, lam = self.law.frames, self.law.eigenvalues
        if isinstance(m, int):
            check_number("m", m, low=1, integer=True)
            y = torch.multinomial(self.weights, m, replacement=True, generator=generator)
        else:
            if len(m) != self.n_components:
                raise ValueError(f"m must be one number, or one for each of {self.n_components} components, got {m}")
            y = torch.arange(len(m), device=U.device).repeat_interleave(torch.as_tensor(m, device=U.device))
        a = torch.randn(len(y), lam.shape[1], generator=generator, dtype=lam.dtype, device=lam.device) * lam[y].sqrt()
        x = torch.einsum("bnd,bd->bn", U[y], a)
        return (x if self.law.means is None else x + self.law.means[y]), y

    def responsibilities(
        self, x_t: Float[Tensor, "batch n"], s: float | Tensor, gamma: float | Tensor
    ) -> Float[Tensor, "batch k"]:
        """Return the probability of every component given noised points."""
        return torch.softmax(posterior(self.law, *self._check(x_t, s, gamma)).logits, -1)

    def posterior_mean(
        self, x_t: Float[Tensor, "batch n"], s: float | Tensor, gamma: float | Tensor
    ) -> Float[Tensor, "batch n"]:
        """Return the mean of the clean point given the noised one: the best denoiser there is.

        Args:
            x_t: noised points.
            s, gamma: scale of the data and standard deviation of the noise, one number or one per point.
        """
        at = posterior(self.law, *self._check(x_t, s, gamma))
        return posterior_mean(self.law, at, torch.softmax(at.logits, -1))

    def log_prob_noisy(
        self, x_t: Float[Tensor, "batch n"], s: float | Tensor, gamma: float | Tensor
    ) -> Float[Tensor, " batch"]:
        r"""Return the log-density of :math:`s x_0 + \gamma\epsilon`."""
        x, s, gamma = self._check(x_t, s, gamma)
        s_, g2 = (torch.as_tensor(v).to(x).reshape(-1, 1) for v in (s, gamma**2))
        U = self.law.frames
        centred = x[:, None] if self.law.means is None else x[:, None] - s_[..., None] * self.law.means
        z = torch.einsum("knd,bkn->bkd", U, centred.expand(-1, len(U), -1))
        rest = centred - torch.einsum("knd,bkd->bkn", U, z)
        ratio = s_[..., None] ** 2 * self.law.eigenvalues / g2[..., None]
        quadratic = (rest.square().sum(-1) + (z.square() / (1 + ratio)).sum(-1)) / g2
        logdet = torch.log1p(ratio).sum(-1) + self.dim * (2 * math.pi * g2).log()
        return torch.logsumexp(self.law.log_weights - 0.5 * (quadratic + logdet), -1)

    def score(
        self, x_t: Float[Tensor, "batch n"], s: float | Tensor, gamma: float | Tensor
    ) -> Float[Tensor, "batch n"]:
        """Return the gradient of :meth:`log_prob_noisy`, by automatic differentiation of it."""
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            return torch.autograd.grad(self.log_prob_noisy(x, s, gamma).sum(), x)[0]

    def _check(
        self, x: Tensor, s: float | Tensor, gamma: float | Tensor
    ) -> tuple[Float[Tensor, "batch n"], float | Tensor, float | Tensor]:
        if not isinstance(x, Tensor) or x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(f"x_t must have shape (batch, {self.dim}), got {getattr(x, 'shape', type(x).__name__)}")
        check_finite("x_t", x)
        for name, value, least in (("s", s, 0.0), ("gamma", gamma, 0.0)):
            smallest = float(value.min()) if isinstance(value, Tensor) else value
            check_number(name, smallest, low=least, open_low=True)
        return x, s, gamma
