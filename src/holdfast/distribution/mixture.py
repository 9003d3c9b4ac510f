"""What mixtures of Gaussians share, however their covariances are stored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holdfast.core.checks import check_finite, check_number

__all__ = ["LOG_2PI", "HasLogProb", "Mixture", "cholesky", "normal_log_prob"]

_SIMPLEX_TOLERANCE = 1e-4
LOG_2PI = 1.8378770664093453
"""Logarithm of 2 pi."""


class HasLogProb(Protocol):
    """Anything with a log-density."""

    def log_prob(self, x: Tensor, /) -> Tensor:
        """Return the log-density of every point."""
        ...


class Mixture(ABC):
    r"""A batch of mixtures :math:`\sum_k w_k\, \mathcal N(\mu_k, \Sigma_k)` of K Gaussians in D dimensions.

    Attributes:
        log_weights: (*B, K), normalised.
        means: (*B, K, D).
    """

    log_weights: Float[Tensor, "*batch k"]
    means: Float[Tensor, "*batch k dim"]

    @property
    def batch_shape(self) -> torch.Size:
        """The shape ``B`` of the batch, empty for one mixture."""
        return self.log_weights.shape[:-1]

    @property
    def n_components(self) -> int:
        """The number of components K."""
        return self.log_weights.shape[-1]

    @property
    def dim(self) -> int:
        """The dimension D of the space."""
        return self.means.shape[-1]

    @property
    def weights(self) -> Float[Tensor, "*batch k"]:
        """The weights, which add up to 1."""
        return self.log_weights.exp()

    def __repr__(self) -> str:
        shape = f"batch_shape={tuple(self.batch_shape)}, n_components={self.n_components}, dim={self.dim}"
        return f"{type(self).__name__}({shape})"

    @abstractmethod
    def _parts(self) -> tuple[Tensor, ...]:
        """Return the tensors it is made of, each with the batch first."""

    @classmethod
    @abstractmethod
    def _of(cls, *parts: Tensor) -> Self:
        """Make one from such tensors, unchecked."""

    @property
    @abstractmethod
    def covariances(self) -> Float[Tensor, "*batch k dim dim"]:
        """The covariance of every component."""

    @abstractmethod
    def _component_log_prob(self, x: Tensor) -> Tensor:
        """From (S, *B, D) to (S, *B, K)."""

    @abstractmethod
    def _noise(self, rows: Tensor, chosen: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw (N, n, D) centred Gaussians of components ``chosen`` (N, n) of the flattened batch."""

    def component_log_prob(self, x: Float[Tensor, "*sample dim"]) -> Float[Tensor, "*sample k"]:
        """Return the log-density of ``x`` under every component, without the weights."""
        if x.ndim < 1 or x.shape[-1] != self.dim:
            raise ValueError(f"x must end in the dimension {self.dim}, got shape {tuple(x.shape)}")
        shape = torch.broadcast_shapes(x.shape[:-1], self.batch_shape)
        lead = shape[: len(shape) - len(self.batch_shape)]
        if shape[len(lead) :] != self.batch_shape:
            raise ValueError(
                f"x of shape {tuple(x.shape)} does not go with mixtures of batch shape {tuple(self.batch_shape)}; "
                "x has any number of sample dimensions, the batch, and the dimension"
            )
        full = x.expand(*shape, self.dim)
        out = self._component_log_prob(full.reshape(-1, *self.batch_shape, self.dim))
        return out.reshape(*shape, self.n_components)

    def log_prob(self, x: Float[Tensor, "*sample dim"]) -> Float[Tensor, "*sample"]:
        """Return the log-density of ``x``, (*S, *B, D), at any number of sample dimensions S before the batch."""
        return torch.logsumexp(self.component_log_prob(x) + self.log_weights, -1)

    def responsibilities(self, x: Float[Tensor, "*sample dim"]) -> Float[Tensor, "*sample k"]:
        """Return the probability of every component given ``x``."""
        return torch.softmax(self.component_log_prob(x) + self.log_weights, -1)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n *batch dim"]:
        """Draw ``n`` points of every mixture."""
        check_number("n", n, low=1, integer=True)
        weights = self.weights.reshape(-1, self.n_components)
        chosen = torch.multinomial(weights, n, replacement=True, generator=generator)
        rows = torch.arange(len(weights), device=weights.device)[:, None]
        x = self.means.reshape(len(weights), self.n_components, self.dim)[rows, chosen]
        x = x + self._noise(rows, chosen, generator)
        return x.transpose(0, 1).reshape(n, *self.batch_shape, self.dim)

    @property
    def mean(self) -> Float[Tensor, "*batch dim"]:
        """The mean of the mixture."""
        return (self.weights[..., None] * self.means).sum(-2)

    @property
    def cov(self) -> Float[Tensor, "*batch dim dim"]:
        """The covariance of the mixture: within components plus between them."""
        centred = self.means - self.mean[..., None, :]
        each = self.covariances + centred[..., :, None] * centred[..., None, :]
        return (self.weights[..., None, None] * each).sum(-3)

    def kl_mc(
        self, other: HasLogProb, n: int = 1000, generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch"]:
        r"""Estimate :math:`\mathrm{KL}(p \| q) = E_p[\log p - \log q]` from ``n`` draws of this mixture.

        Unbiased, with an error of order :math:`n^{-1/2}`; it may be negative.
        """
        x = self.sample(n, generator)
        return (self.log_prob(x) - other.log_prob(x)).mean(0)

    def detach(self) -> Self:
        """Return the same mixtures outside the graph of gradients."""
        return self._map(torch.Tensor.detach)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Return the mixtures on another device, or in another precision (see ``torch.Tensor.to``)."""
        return self._map(lambda t: t.to(*args, **kwargs))

    def __getitem__(self, index: Any) -> Self:
        """Return some of the batch's mixtures."""
        if not self.batch_shape:
            raise IndexError("one mixture has no batch to take rows of")
        return self._map(lambda t: t[index])

    def expand(self, *batch: int) -> Self:
        """Return mixtures repeated to a larger batch."""
        lead = len(self.batch_shape)
        return self._map(lambda t: t.expand(*batch, *t.shape[lead:]))

    @classmethod
    def cat(cls, mixtures: Sequence[Self]) -> Self:
        """Join batches along their first dimension."""
        return cls._of(*(torch.cat(parts) for parts in zip(*(m._parts() for m in mixtures))))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        return self._of(*(change(t) for t in self._parts()))

    def _check_dims(self, dims: Sequence[int] | Int[Tensor, "p"]) -> list[int]:
        chosen = [int(d) for d in dims]
        if not chosen or len(set(chosen)) != len(chosen) or not all(0 <= d < self.dim for d in chosen):
            raise ValueError(f"dims must be different dimensions of 0..{self.dim - 1}, got {chosen}")
        return chosen

    def _split_dims(self, dims: Sequence[int] | Int[Tensor, "p"]) -> tuple[list[int], list[int]]:
        """Return the given dimensions and the others, of which there must be some."""
        seen = self._check_dims(dims)
        rest = [d for d in range(self.dim) if d not in seen]
        if not rest:
            raise ValueError("conditioning on every dimension leaves nothing; dims must leave some out")
        return seen, rest

    @staticmethod
    def _log_simplex(weights: Tensor, means: Tensor) -> Tensor:
        """Check weights and means together and return the log of the weights."""
        if means.ndim < 2 or weights.shape != means.shape[:-1] or 0 in means.shape:
            raise ValueError(
                f"weights must be (*B, K) and means (*B, K, D), got {tuple(weights.shape)} and {tuple(means.shape)}"
            )
        check_finite("weights", weights)
        check_finite("means", means)
        total = weights.sum(-1)
        worst = float((total - 1).abs().max())
        if float(weights.min()) < 0 or worst > _SIMPLEX_TOLERANCE:
            raise ValueError(
                "weights must be non-negative and add up to 1 within 0.0001, but the smallest is "
                f"{float(weights.min()):g} and a sum is off by {worst:g}"
            )
        tiny = torch.finfo(weights.dtype).tiny
        return (weights / total[..., None]).clamp_min(tiny).log()


def cholesky(name: str, covariance: Tensor) -> Tensor:
    """Return the lower Cholesky factor, or raise where a matrix is not positive definite."""
    factor, info = torch.linalg.cholesky_ex(covariance)
    if bool((info > 0).any()):
        bad = (info > 0).nonzero()[0].tolist()
        where = f"; the first that is not has index {bad}" if bad else ""
        raise ValueError(f"{name} must be positive definite{where}")
    return factor


def normal_log_prob(centred: Float[Tensor, "*batch dim"], scale_tril: Float[Tensor, "*batch dim dim"]) -> Tensor:
    """Return the log-density of a centred Gaussian with the Cholesky factor ``scale_tril``."""
    if centred.shape[-1] == 1:
        scale = scale_tril[..., 0]
        return -0.5 * ((centred / scale).square() + LOG_2PI).squeeze(-1) - scale.log().squeeze(-1)
    white = torch.linalg.solve_triangular(scale_tril, centred[..., None], upper=False)[..., 0]
    logdet = scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return -0.5 * (white.square().sum(-1) + centred.shape[-1] * LOG_2PI) - logdet
