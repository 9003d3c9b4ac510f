"""Exact predictions for Gaussian data and mixtures of Gaussians, on any path."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from holdfast.core.checks import check_choice, check_finite, check_labels
from holdfast.diffusion.denoiser import as_times
from holdfast.diffusion.paths import PREDICTIONS, Path, Prediction

__all__ = ["GaussianMixtureOracle", "GaussianOracle"]


class GaussianMixtureOracle(nn.Module):
    r"""Velocity, noise, data and score of :math:`x_0 \sim \sum_k w_k N(\mu_k, S_k)`, in closed form.

    .. math:: x_t \mid k \sim N(\alpha\mu_k, C_k),\; C_k = \alpha^2 S_k + \sigma^2 I, \qquad
              E[x_0 \mid x_t, k] = \mu_k + \alpha S_k C_k^{-1}(x_t - \alpha\mu_k), \qquad
              E[\epsilon \mid x_t, k] = \sigma C_k^{-1}(x_t - \alpha\mu_k)

    averaged over the components' posterior. A label is a component; label K conditions on none, so guidance can be
    tested too. All is computed in the precision of the means, in the eigenbasis of each covariance.

    Args:
        means: (K, ...) one per component, of any shape.
        covariances: (K, D, D) full, (K, D) diagonal, or one variance for all, D the number of entries of a mean.
        path: the process.
        weights: (K,) positive, scaled to sum to one; equal by default.

    Raises:
        ValueError: for shapes that do not fit, a covariance that is no covariance, weights that are not positive.
        TypeError: for means that are no floating tensor.

    Examples:
        >>> from holdfast.diffusion.paths import LinearPath
        >>> oracle = GaussianMixtureOracle(torch.tensor([[-2.0], [2.0]]), 0.01, LinearPath())
        >>> x = torch.tensor([[0.0]])
        >>> [round(oracle.predict(x, 0.5, torch.tensor([k]), target="data").item(), 2) for k in (0, 1, 2)]
        [-1.98, 1.98, 0.0]
    """

    prediction: Prediction = "velocity"
    means: Tensor
    variances: Tensor
    log_weights: Tensor
    bases: Tensor | None

    def __init__(
        self,
        means: Float[Tensor, "components *shape"],
        covariances: Tensor | float,
        path: Path,
        weights: Float[Tensor, " components"] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(means, Tensor) or not means.is_floating_point():
            raise TypeError(f"means must be a floating tensor, got {getattr(means, 'dtype', type(means).__name__)}")
        if means.ndim < 2 or means.numel() == 0:
            raise ValueError(f"means must have shape (components, ...), got {tuple(means.shape)}")
        check_finite("means", means)
        self.path, self.shape = path, tuple(means.shape[1:])
        flat = means.detach().flatten(1)
        k, d = flat.shape
        c = torch.as_tensor(covariances, dtype=flat.dtype, device=flat.device)
        bases = None
        if c.ndim == 0:
            variances = c.expand(k, d).clone()
        elif c.shape == (k, d):
            variances = c.clone()
        elif c.shape == (k, d, d):
            if not torch.allclose(c, c.mT, atol=1e-6 * float(c.abs().max())):
                raise ValueError("covariances must be symmetric")
            variances, bases = torch.linalg.eigh(c)
        else:
            raise ValueError(
                f"covariances must be one number, shape ({k}, {d}) or shape ({k}, {d}, {d}), got {tuple(c.shape)}"
            )
        check_finite("covariances", c)
        if float(variances.min()) < -1e-6 * max(1e-30, float(variances.max())):
            raise ValueError(f"covariances must not have negative eigenvalues, got {float(variances.min()):g}")
        w = torch.ones(k) if weights is None else torch.as_tensor(weights)
        if w.shape != (k,) or not bool((w > 0).all()):
            raise ValueError(f"weights must be {k} positive numbers, got {w.tolist()}")
        self.register_buffer("means", flat)
        self.register_buffer("variances", variances.clamp_min(0))
        self.register_buffer("bases", bases)
        self.register_buffer("log_weights", (w / w.sum()).log().to(flat))

    @property
    def null_class(self) -> int:
        """The label that conditions on no component."""
        return len(self.means)

    def predict(
        self,
        x: Float[Tensor, "batch *shape"],
        t: float | Float[Tensor, " batch"],
        y: Int[Tensor, " batch"] | None = None,
        *,
        target: Prediction = "velocity",
    ) -> Float[Tensor, "batch *shape"]:
        """Return the posterior mean of ``target`` (of ``"score"``, the gradient of :meth:`log_density`)."""
        check_choice("target", target, PREDICTIONS)
        z, var, (alpha, sigma, dalpha, dsigma) = self._place(x, t)
        whitened = z / var
        if target == "data":
            inner = alpha * self.variances * whitened
        elif target == "noise":
            inner = sigma * whitened
        elif target == "score":
            inner = -whitened
        else:
            inner = (dalpha * alpha * self.variances + dsigma * sigma) * whitened
        parts = inner if self.bases is None else torch.einsum("kij,bkj->bki", self.bases, inner)
        if target in ("data", "velocity"):
            parts = parts + (self.means if target == "data" else dalpha * self.means)
        share = self._log_joint(z, var, y).softmax(1)
        return torch.einsum("bk,bkd->bd", share, parts).reshape(x.shape).to(x.dtype)

    def log_density(
        self,
        x: Float[Tensor, "batch *shape"],
        t: float | Float[Tensor, " batch"],
        y: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, " batch"]:
        """Return the log-density of the noised law at time ``t``."""
        z, var, _ = self._place(x, t)
        joint = self._log_joint(z, var, y)
        total = joint.logsumexp(1)
        return total if y is None else total - self._prior(y, len(x)).logsumexp(1)

    def sample(
        self, n: int, generator: torch.Generator, y: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n *shape"]:
        """Draw data, of the components ``y`` where given."""
        if y is None:
            y = torch.multinomial(self.log_weights.exp(), n, replacement=True, generator=generator)
        z = torch.randn(n, self.means.shape[1], generator=generator, dtype=self.means.dtype, device=self.means.device)
        z = z * self.variances[y].sqrt()
        if self.bases is not None:
            z = torch.einsum("bij,bj->bi", self.bases[y], z)
        return (self.means[y] + z).reshape(n, *self.shape)

    def _place(self, x: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Deviations in the eigenbases, their variances, and the path's coefficients, one row per sample."""
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"x must have shape (n, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}")
        times = as_times(t, x).to(self.means.dtype)
        self.path.check(times)
        c = tuple(v[:, None, None] for v in self.path.coefficients(times))
        z = x.flatten(1).to(self.means.dtype)[:, None] - c[0] * self.means
        if self.bases is not None:
            z = torch.einsum("kij,bki->bkj", self.bases, z)
        var = c[0].square() * self.variances + c[1].square()
        return z, var.clamp_min(torch.finfo(var.dtype).tiny), c

    def _prior(self, y: Tensor | None, n: int) -> Tensor:
        k = len(self.means)
        if y is None:
            return self.log_weights.expand(n, k)
        check_labels("y", y, k + 1)
        other = torch.arange(k, device=y.device) != y[:, None]
        return self.log_weights.expand(n, k).masked_fill(other & (y[:, None] < k), -math.inf)

    def _log_joint(self, z: Tensor, var: Tensor, y: Tensor | None) -> Tensor:
        log = -0.5 * (z.square() / var + var.log() + math.log(2 * math.pi)).sum(-1)
        return log + self._prior(y, len(z))


class GaussianOracle(GaussianMixtureOracle):
    r"""Velocity, noise, data and score of :math:`x_0 \sim N(\mu, S)`: affine in x, in closed form.

    Args:
        mean: (...) of any shape.
        covariance: (D, D), (D,) variances, or one variance, D the number of entries of the mean.
        path: the process.

    Raises:
        ValueError, TypeError: as for :class:`GaussianMixtureOracle`.

    Examples:
        >>> from holdfast.diffusion.paths import LinearPath
        >>> oracle = GaussianOracle(torch.zeros(2), torch.eye(2), LinearPath())
        >>> oracle.predict(torch.ones(1, 2), 0.5)  # by symmetry, data and noise have the same mean
        tensor([[0., 0.]])
    """

    def __init__(self, mean: Float[Tensor, "*shape"], covariance: Tensor | float, path: Path) -> None:
        if not isinstance(mean, Tensor) or mean.ndim < 1:
            raise TypeError(f"mean must be a floating tensor with at least one axis, got {mean!r}")
        if isinstance(covariance, Tensor) and covariance.ndim:
            covariance = covariance[None]
        super().__init__(mean[None], covariance, path)
