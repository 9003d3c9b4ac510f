"""Training of the low-rank denoiser: subspace clustering by denoising."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holdfast.core.batching import Batches, BatchPlan
from holdfast.core.checks import check_choice, check_number
from holdfast.core.grassmann import GrassmannSGD
from holdfast.core.random import generator, spawn_seed
from holdfast.core.steps import StepInfo
from holdfast.core.training import train
from holdfast.diffusion.antithetic import denoising_loss
from holdfast.distribution.subspaces.clustering import check_samples, clustering_objective, k_subspaces
from holdfast.distribution.subspaces.denoiser import LowRankMixtureDenoiser

__all__ = ["Recovery", "SubspaceFit", "fit_subspace_denoiser", "recovery", "recovery_table"]

Recovery = Literal["impossible", "erratic", "reliable"]


def recovery(samples: int, d: int) -> Recovery:
    r"""Say what the theory says of a d-dimensional subspace seen through so many samples.

    With fewer samples than dimensions a part of the subspace was never seen: the error
    :math:`\lVert UU^\top - U_*U_*^\top \rVert_F` is at least about :math:`\sqrt{2\min(d - N, n - d)}`. From N = d on
    it is bounded by the residual over :math:`\sqrt N - \sqrt{d - 1}`, which is erratic near d.

    Source: Wang et al., "Diffusion models learn low-dimensional distributions via subspace clustering", 2024,
    theorems 2 and 4.

    Examples:
        >>> recovery(3, 4), recovery(4, 4), recovery(8, 4)
        ('impossible', 'erratic', 'reliable')
    """
    return "impossible" if samples < d else "erratic" if samples < 2 * d else "reliable"


def recovery_table(counts: Sequence[int], dims: Sequence[int]) -> str:
    """Return one line per subspace: samples, dimension, their ratio and what the theory says of it."""
    rows = enumerate(zip(counts, dims))
    return "\n".join(f"subspace {k}: {m} samples, d = {d}, N/d = {m / d:.2g}: {recovery(m, d)}" for k, (m, d) in rows)


@dataclass(frozen=True)
class SubspaceFit:
    """What training found.

    Attributes:
        bases: orthonormal bases (n, d_k).
        labels: the subspace of every sample.
        objective: the clustering objective, by which the restart was chosen (its maximum over the restarts).
        loss: the denoising loss of the chosen restart. No bound links it to the objective: look at both.
        loss_curve: steps done and training loss, averaged over the restarts.
        objectives, losses: of every restart.
        X: the samples.
    """

    bases: list[Float[Tensor, "n d"]]
    labels: Int[Tensor, " N"]
    objective: float
    loss: float
    loss_curve: list[tuple[int, float]]
    objectives: list[float]
    losses: list[float]
    X: Float[Tensor, "N n"]

    @property
    def dims(self) -> tuple[int, ...]:
        """The dimension d_k of every subspace."""
        return tuple(U.shape[1] for U in self.bases)

    @property
    def counts(self) -> tuple[int, ...]:
        """The number of samples N_k of every subspace."""
        return tuple(torch.bincount(self.labels, minlength=len(self.bases)).tolist())

    @property
    def recovery(self) -> tuple[Recovery, ...]:
        """What the theory says of every subspace at its N_k / d_k; see :func:`recovery`."""
        return tuple(recovery(m, d) for m, d in zip(self.counts, self.dims))

    def denoiser(self, hard: bool = False) -> LowRankMixtureDenoiser:
        """Return the trained denoiser."""
        model = LowRankMixtureDenoiser(self.X.shape[1], self.dims, hard)
        with torch.no_grad():
            for U, basis in zip(model.frames, self.bases):
                U.copy_(basis)
        return model.eval()

    def __str__(self) -> str:
        return recovery_table(self.counts, self.dims)


def fit_subspace_denoiser(
    X: Any,
    dims: Sequence[int],
    *,
    steps: int = 1000,
    restarts: int = 16,
    noise_range: tuple[float, float] = (0.02, 0.5),
    antithetic: bool = True,
    batch_size: int = 96,
    lr: float = 0.5,
    momentum: float = 0.9,
    init: Literal["random", "k_subspaces"] = "random",
    device: str = "auto",
    progress: bool | str = False,
    seed: int = 0,
) -> SubspaceFit:
    r"""Fit subspaces by minimising the denoising loss of a :class:`LowRankMixtureDenoiser`.

    .. math:: \min_{U_k^\top U_k = I}\; \frac1N \sum_i E_{\sigma, \epsilon}
              \lVert D_U(x_i + \sigma\epsilon, \sigma) - x_i \rVert^2

    For one subspace every minimiser is the top-d PCA subspace of the samples, not centred; for several the loss with
    hard weights is that of K-subspaces clustering. Restarts are trained together, and the one with the largest
    clustering objective is returned.

    Args:
        X: (N, n) samples of about unit variance along the subspaces, which go through 0.
        dims: dimension of every subspace; see :func:`estimate_dims`.
        steps, lr, momentum, batch_size: of :class:`holdfast.core.grassmann.GrassmannSGD`; the step falls to 0 by a
            cosine.
        restarts: random starts, trained at once; a quarter to a half of them end in the best optimum where two
            subspaces are orthogonal, fewer where they are close. One subspace needs one.
        noise_range: lowest and highest noise level, drawn log-uniformly.
        antithetic: use every noise with both signs.
        init: where the restarts begin; ``"k_subspaces"`` each from a clustering.
        device, progress: see :func:`holdfast.core.training.train`.
        seed: of everything random.

    Raises:
        ValueError: for fewer samples than subspaces, dimensions outside 1..n - 1, a lowest noise of 0 or less, or
            values that are not finite.

    Warns:
        UserWarning: where a subspace has fewer samples than dimensions (it cannot be recovered), the samples are not
            centred, or most noise levels hide which subspace a sample is of.

    Source: Wang et al., "Diffusion models learn low-dimensional distributions via subspace clustering", 2024.

    Examples:
        >>> from holdfast.distribution.subspaces import make_subspace_samples
        >>> data = make_subspace_samples(12, (2, 2), 20, seed=0)
        >>> fit = fit_subspace_denoiser(data.x, (2, 2), steps=150, device="cpu")
        >>> print(fit)
        subspace 0: 20 samples, d = 2, N/d = 10: reliable
        subspace 1: 20 samples, d = 2, N/d = 10: reliable
    """
    x, dims = check_samples(X, dims)
    x = x.float()
    low, high = (check_number(f"noise_range[{i}]", v, low=0, open_low=True) for i, v in enumerate(noise_range))
    if low > high:
        raise ValueError(f"noise_range must be (lowest, highest), got {tuple(noise_range)}")
    for name, value in (("restarts", restarts), ("batch_size", batch_size)):
        check_number(name, value, low=1, integer=True)
    check_choice("init", init, ("random", "k_subspaces"))
    _warn_off_centre(x)
    # At the geometric mean of the levels: half of the draws are below.
    middle = low * high
    if len(dims) > 1 and float(x.square().sum(1).median()) <= 2 * middle * (1 + middle):
        warnings.warn(
            f"more than half of the noise levels in {low:g}..{high:g} hide which subspace a sample of norm "
            f"{float(x.norm(dim=1).median()):g} is of: scale the samples up, or lower noise_range",
            stacklevel=2,
        )
    if len(x) < max(dims):
        _warn_too_few(0, len(x), max(dims), x.shape[1], stacklevel=3)
    rng = generator(spawn_seed(seed, "frames"))
    model = LowRankMixtureDenoiser(x.shape[1], dims, copies=int(restarts), generator=rng)
    if init == "k_subspaces":
        starts = [k_subspaces(x, dims, generator=rng).bases for _ in range(int(restarts))]
        with torch.no_grad():
            for k, U in enumerate(model.frames):
                U.copy_(torch.stack([bases[k] for bases in starts]))

    def levels(rows: int, g: torch.Generator) -> Tensor:
        u = torch.rand(rows, generator=g, device=g.device)
        return (math.log(low) + u * math.log(high / low)).exp()

    def loss(net: torch.nn.Module, batch: Tensor, info: StepInfo) -> Tensor:
        sigma = levels(len(batch), info.generator)
        each = denoising_loss(net, batch, sigma, antithetic=antithetic, generator=info.generator)
        return each.mean(-1).sum()  # the gradient of a restart does not depend on the others

    # A small data set fills a batch by repetition: every sample meets several noises in a step.
    repeats = max(1, batch_size // len(x))
    batches = Batches(BatchPlan(len(x), batch_size, seed=seed), lambda rows: x[rows].repeat(repeats, 1))

    def optimizer(groups: list[dict[str, Any]]) -> GrassmannSGD:
        return GrassmannSGD(groups, lr=lr, momentum=momentum)

    result = train(
        model,
        loss,
        batches,
        steps=steps,
        optimizer=optimizer,
        lr=lr,
        schedule="cosine",
        device=device,
        progress=progress,
        seed=spawn_seed(seed, "training"),
    )
    model = model.cpu()
    frames = model.bases()
    found = [[U[r] for U in frames] for r in range(int(restarts))]
    scored = [clustering_objective(bases, x) for bases in found]
    objectives = [objective for objective, _ in scored]
    with torch.no_grad():
        g, many = generator(spawn_seed(seed, "loss")), x.repeat(max(1, 1024 // len(x)), 1)
        losses = denoising_loss(model, many, levels(len(many), g), generator=g).mean(-1).tolist()
    best = max(range(len(found)), key=objectives.__getitem__)
    fit = SubspaceFit(
        bases=found[best],
        labels=scored[best][1],
        objective=objectives[best],
        loss=losses[best],
        loss_curve=[(int(r["step"]), r["loss"] / restarts) for r in result.history],
        objectives=objectives,
        losses=losses,
        X=x,
    )
    if len(x) >= max(dims):
        for k, (m, d) in enumerate(zip(fit.counts, dims)):
            if m < d:
                _warn_too_few(k, m, d, x.shape[1], stacklevel=3)
    return fit


def _warn_off_centre(x: Tensor) -> None:
    mean, rms = float(x.mean(0).norm()), float(x.square().sum(1).mean().sqrt())
    # The mean of centred samples has a norm of about rms / sqrt(N) by chance.
    if mean > 0.1 * rms and mean > 3 * rms / math.sqrt(len(x)):
        warnings.warn(
            f"the mean of X has {mean / rms:.0%} of its root mean square, but subspaces go through 0: centre it",
            stacklevel=3,
        )


def _warn_too_few(k: int, m: int, d: int, n: int, stacklevel: int) -> None:
    least = math.sqrt(min(d - m, n - d) / d)
    warnings.warn(
        f"subspace {k} has {m} samples for {d} dimensions: with fewer samples than dimensions it cannot be recovered, "
        f"whatever the method, and an error of about {least:.2f} (1 is orthogonal) is the least to expect",
        stacklevel=stacklevel,
    )
