"""The exact denoiser of a finite data set: what a diffusion model that memorises its training data computes."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from holdfast.core.checks import check_choice, check_finite, check_number
from holdfast.diffusion.denoiser import as_times
from holdfast.diffusion.paths import PREDICTIONS, Path, Prediction

__all__ = ["EmpiricalDenoiser"]


class EmpiricalDenoiser(nn.Module):
    r"""Posterior mean of the data under the empirical law of the rows of ``data``, for any path.

    .. math:: E[x_0 \mid x_t] = \sum_i w_i x_i, \qquad
              w = \mathrm{softmax}_i\Bigl(-\frac{\lVert x_t - \alpha_t x_i\rVert^2}{2\sigma_t^2}\Bigr)

    Noise, velocity and score follow from it exactly, so this is a "pretrained" model at no training cost: samplers,
    inversion and guidance are tested with it, and sampling from it returns rows of ``data``. With ``labels`` a call
    with ``y`` conditions on the class; a label equal to the number of classes (the null class) conditions on nothing.
    All weights come from one product of matrices, taken in parts of at most ``chunk`` entries.

    At :math:`\sigma_t = 0` the nearest row is returned, at :math:`\alpha_t = 0` the mean.

    Args:
        data: (n, ...) rows of any shape; their dtype is the one computed in (float64 for exact work).
        path: the process, which gives alpha and sigma at a time.
        labels: (n,) class of every row, 0 to ``num_classes - 1``.
        num_classes: default: the largest label plus one.
        chunk: largest number of entries of the table of weights that is held at once.

    Raises:
        ValueError: for empty or non-finite data, labels out of range, an unknown target, samples of another shape
            than the rows, or ``y`` without labels.
        TypeError: for data that are not floating.

    Source: Yue et al., "Exploring Diffusion Time-steps for Unsupervised Representation Learning", ICLR 2024 (the
    optimal denoiser of its theorem); the formula is the posterior mean of a Gaussian mixture.

    Examples:
        >>> from holdfast.diffusion.paths import LinearPath
        >>> oracle = EmpiricalDenoiser(torch.tensor([[-1.0], [1.0]]), LinearPath())
        >>> x, t = torch.tensor([[0.0], [0.5]]), torch.tensor([0.5, 0.5])
        >>> [round(v, 3) for v in oracle.data(x, t).flatten().tolist()]  # tanh(alpha x / sigma^2)
        [0.0, 0.762]
    """

    prediction: Prediction = "data"

    def __init__(
        self,
        data: Float[Tensor, "n *shape"],
        path: Path,
        *,
        labels: Int[Tensor, " n"] | None = None,
        num_classes: int | None = None,
        chunk: int = 2**24,
    ) -> None:
        super().__init__()
        if not isinstance(data, Tensor) or not data.is_floating_point():
            kind = data.dtype if isinstance(data, Tensor) else type(data).__name__
            raise TypeError(f"data must be a floating tensor, got {kind}")
        if data.ndim < 2 or data.numel() == 0:
            raise ValueError(f"data must have shape (n, ...) with n >= 1, got {tuple(data.shape)}")
        check_finite("data", data)
        check_number("chunk", chunk, low=1, integer=True)
        self.path, self.chunk, self.shape = path, int(chunk), tuple(data.shape[1:])
        rows = data.detach().flatten(1)
        # Weights depend on differences between rows alone: centring keeps the products small, hence exact.
        self.center: Tensor
        self.rows: Tensor
        self.half_norms: Tensor
        self.register_buffer("center", rows.mean(0))
        self.register_buffer("rows", rows - rows.mean(0))
        self.register_buffer("half_norms", self.rows.square().sum(1) / 2)
        self.labels: Tensor | None
        if labels is not None:
            if labels.shape != (len(data),) or labels.is_floating_point():
                raise ValueError(
                    f"labels must be {len(data)} integers, got {labels.dtype} of shape {tuple(labels.shape)}"
                )
            most = int(labels.max())
            self.num_classes = most + 1 if num_classes is None else int(num_classes)
            if int(labels.min()) < 0 or most >= self.num_classes:
                raise ValueError(f"labels must lie in [0, {self.num_classes}), got {int(labels.min())} to {most}")
            if len(labels.unique()) < self.num_classes:
                raise ValueError(f"every one of the {self.num_classes} classes needs a row, some have none")
        else:
            self.num_classes = 0
        self.register_buffer("labels", labels)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def null_class(self) -> int | None:
        """The label that conditions on nothing, where there are labels."""
        return None if self.labels is None else self.num_classes

    def data(
        self,
        x: Float[Tensor, "batch *shape"],
        t: float | Float[Tensor, " batch"],
        y: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch *shape"]:
        """Return the posterior mean of the data."""
        x, t, alpha, sigma = self._enter(x, t)
        ys = self._classes(y, len(x))
        size = max(1, self.chunk // len(self.rows))
        flat = x.flatten(1).to(self.rows.dtype) - alpha[:, None] * self.center
        parts = [
            self._scores(*part)[0].softmax(1) @ self.rows
            for part in zip(flat.split(size), alpha.split(size), sigma.split(size), ys.split(size))
        ]
        return (torch.cat(parts) + self.center).view_as(x).to(x.dtype)

    def predict(
        self,
        x: Float[Tensor, "batch *shape"],
        t: float | Float[Tensor, " batch"],
        y: Int[Tensor, " batch"] | None = None,
        *,
        target: Prediction = "velocity",
    ) -> Float[Tensor, "batch *shape"]:
        """Return the posterior mean of ``target``; of ``"score"``, the gradient of :meth:`log_density`."""
        check_choice("target", target, PREDICTIONS)
        return self.path.convert(self.data(x, t, y), x, as_times(t, x), "data", target)

    def log_density(
        self,
        x: Float[Tensor, "batch *shape"],
        t: float | Float[Tensor, " batch"],
        y: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, " batch"]:
        r"""Return the log-density of the noised law, a mixture of Gaussians around :math:`\alpha_t x_i`.

        Infinite where :math:`\sigma_t = 0`.
        """
        x, t, alpha, sigma = self._enter(x, t)
        ys = self._classes(y, len(x))
        size = max(1, self.chunk // len(self.rows))
        flat = x.flatten(1).to(self.rows.dtype) - alpha[:, None] * self.center
        parts = []
        for u, a, s, label in zip(flat.split(size), alpha.split(size), sigma.split(size), ys.split(size)):
            scores, best = self._scores(u, a, s, label)
            used = torch.full_like(label, len(self.rows))
            if self.labels is not None:
                counts = torch.cat([torch.bincount(self.labels, minlength=self.num_classes), used[:1]])
                used = counts[label]
            gain = (best - u.square().sum(1) / 2) / s.square()
            parts.append(
                gain + scores.logsumexp(1) - used.to(u).log() - u.shape[1] * (s.log() + math.log(2 * math.pi) / 2)
            )
        return torch.cat(parts)

    def draw(self, n: int, t: float, *, generator: torch.Generator | None = None) -> Float[Tensor, "n *shape"]:
        """Return ``n`` draws of the noised law at time ``t``."""
        check_number("n", n, low=1, integer=True)
        device = self.rows.device
        picked = torch.randint(len(self.rows), (int(n),), generator=generator, device=device)
        x = (self.rows[picked] + self.center).view(int(n), *self.shape)
        eps = torch.randn(x.shape, generator=generator, device=device, dtype=x.dtype)
        return self.path.noise(x, eps, torch.full((int(n),), float(t), device=device, dtype=x.dtype))

    def _scores(self, u: Tensor, alpha: Tensor, sigma: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-weights up to a constant of the sample, and that constant times the variance.

        The square of the sample itself is in neither.
        """
        a = alpha[:, None]
        gain = a * (u @ self.rows.mT) - a.square() * self.half_norms
        if self.labels is not None:
            other = (y[:, None] != self.labels) & (y[:, None] != self.num_classes)
            gain = gain.masked_fill(other, -torch.inf)
        best = gain.max(1, keepdim=True).values.detach()
        # At sigma = 0 the division leaves 0 for the nearest row and -inf for the others.
        variance = sigma[:, None].square().clamp_min(torch.finfo(sigma.dtype).tiny)
        return (gain - best) / variance, best[:, 0]

    def _enter(self, x: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"samples must have the rows' shape {self.shape}, got {tuple(x.shape[1:])}")
        t = as_times(t, x)
        alpha, sigma, *_ = self.path.coefficients(t.to(self.rows.dtype))
        return x, t, alpha.to(self.rows), sigma.to(self.rows)

    def _classes(self, y: Tensor | None, n: int) -> Tensor:
        if y is None:
            return torch.full((n,), self.num_classes, device=self.rows.device)
        if self.labels is None:
            raise ValueError("y needs labels of the data, which were not given")
        y = torch.as_tensor(y, device=self.rows.device)
        y = y.expand(n) if y.ndim == 0 else y
        if y.shape != (n,) or bool(((y < 0) | (y > self.num_classes)).any()):
            raise ValueError(
                f"y must hold {n} classes in [0, {self.num_classes}], {self.num_classes} for none; "
                f"got shape {tuple(y.shape)} from {int(y.min())} to {int(y.max())}"
            )
        return y
