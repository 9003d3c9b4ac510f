"""Likelihood fits to perturbed data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.core.batching import Batches, BatchPlan
from holdfast.core.checks import check_choice, check_number
from holdfast.core.random import isolated_rng, spawn_seed
from holdfast.core.steps import StepInfo
from holdfast.core.training import train
from holdfast.distribution.singular.encoder import GaussianEncoder
from holdfast.distribution.singular.generator import LatentGaussianGenerator
from holdfast.distribution.singular.latents import Charts, NormalLatent
from holdfast.distribution.singular.perturbation import PerturbedData, data_scale, perturb
from holdfast.distribution.singular.points import check_points
from holdfast.distribution.variational import effective_sample_size
from holdfast.nn.coders import MLPEncoder

__all__ = ["LikelihoodFit", "Objective", "fit_likelihood"]

Objective = Literal["vae", "iwae", "quadrature"]

_DOUBLY = 10


@dataclass(frozen=True)
class LikelihoodFit:
    r"""What a fit found. All deviations are in the units of the data.

    Attributes:
        sigma_hat: deviation of the noise that the model learned.
        sigma_tilde: deviation of the noise that was added.
        scale: of the data, one number.
        objective: which bound, or likelihood, was maximised.
        value: its mean over the last tenth of the steps, per datum, in the model's units. It does not compare between
            perturbations: the data differ.
        ess: of "iwae", the effective number of draws at the end, on the mean.
        resolution: of "quadrature", see :meth:`LatentGaussianGenerator.resolution`.
        trace: records of training: "step", "loss", "sigma" (in units of the scale) and so on.
        encoder: the fitted encoder, where there is one.
        seconds: wall time of training.
    """

    sigma_hat: float
    sigma_tilde: float
    scale: float
    objective: str
    value: float
    ess: float | None
    resolution: float | None
    trace: list[dict[str, float]]
    encoder: nn.Module | None
    seconds: float

    @property
    def sigma_own(self) -> float:
        r"""What is left without the added noise, :math:`\sqrt{(\hat\sigma^2 - \tilde\sigma^2)_+}`: the data's own noise
        and the misfit of the model together."""
        return math.sqrt(max(0.0, self.sigma_hat**2 - self.sigma_tilde**2))

    def __str__(self) -> str:
        own = self.sigma_own / self.scale
        lines = [f"noise: learned {self.sigma_hat:.3g}, added {self.sigma_tilde:.3g}, data's scale {self.scale:.3g}"]
        if self.sigma_tilde == 0:
            lines.append("no noise was added: on (nearly) singular data the likelihood rewards less and less noise")
        elif own > 0.5 * self.sigma_tilde / self.scale:
            lines.append(f"{self.sigma_own:.3g} is the data's own noise or misfit: more than half of what was added")
        else:
            lines.append("the learned noise is the added noise: the model fits what it was given")
        if self.resolution is not None and self.resolution < 1:
            lines.append("the grid is too coarse for this little noise: the value is not a likelihood")
        return "\n".join(lines)


class _Pair(nn.Module):
    def __init__(self, model: LatentGaussianGenerator, encoder: nn.Module | None) -> None:
        super().__init__()
        self.model, self.encoder = model, encoder


def fit_likelihood(
    model: LatentGaussianGenerator,
    X: Any,
    sigma_tilde: float,
    objective: Objective = "vae",
    *,
    encoder: nn.Module | None = None,
    mode: Literal["fresh", "fixed"] = "fresh",
    draws: int = 10,
    nodes: int = 256,
    steps: int = 2000,
    batch_size: int = 128,
    lr: float = 2e-3,
    lr_sigma: float = 5e-3,
    clip_norm: float | None = 10.0,
    seed: int = 0,
    **options: Any,
) -> LikelihoodFit:
    r"""Add noise to the data, fit generator and deviation by likelihood, in place; sample without noise afterwards.

    .. math:: \max_{f,\,\sigma} \sum_i \log p_{f,\sigma}(X_i + \tilde\sigma e_i), \qquad e_i \sim \mathcal N(0, I)

    Data are centred and divided by one number first. The deviation learned should approach
    :math:`\sqrt{\sigma_*^2 + \tilde\sigma^2}`; a larger one means misfit.

    Args:
        model: the generator, changed in place.
        X: (n, ...) real numbers.
        sigma_tilde: deviation of the added noise, in the units of the data; see :func:`perturbation_level` and
            :func:`select_perturbation`.
        objective: "vae", the evidence lower bound; "iwae", from ``draws`` draws; "quadrature", the likelihood itself on
            ``nodes`` latents, moved at random at each step, for latents of at most two dimensions.
        encoder: from points to the posterior, :class:`GaussianEncoder`; a perceptron by default.
        mode: noise drawn anew at each step ("fresh"), or once for every datum ("fixed"), as in the theorem.
        draws, nodes: see ``objective``.
        steps, batch_size, lr, clip_norm, seed: see :func:`holdfast.core.training.train`; the optimizer is Adam and the
            schedule a cosine.
        lr_sigma: learning rate of the deviation.
        options: further options of :func:`holdfast.core.training.train`.

    Raises:
        ValueError: for a negative ``sigma_tilde``, fewer than 20 data or 2 different ones, values that are not finite,
            or "quadrature" with more than two latent dimensions.
        TypeError: for integers.

    Source: Chae et al., "A likelihood approach to nonparametric estimation of a singular distribution using deep
    generative models", JMLR 2023, sections 2 and 3.

    Examples:
        >>> g = torch.Generator().manual_seed(0)
        >>> x = torch.randn(400, 1, generator=g) @ torch.ones(1, 5)
        >>> model = LatentGaussianGenerator(nn.Linear(1, 5), NormalLatent(1))
        >>> fit = fit_likelihood(model, x, 0.3, "quadrature", steps=400, lr=2e-2, lr_sigma=2e-2, device="cpu")
        >>> bool(abs(fit.sigma_hat - 0.3) < 0.03), model.sample(4, g).shape
        (True, torch.Size([4, 5]))
    """
    check_choice("objective", objective, ["vae", "iwae", "quadrature"])
    check_number("sigma_tilde", sigma_tilde, low=0)
    check_number("lr_sigma", lr_sigma, low=0, open_low=True)
    check_number("draws", draws, low=2, integer=True)
    if objective == "quadrature" and model.latent.intrinsic > 2:
        raise ValueError(
            f"objective='quadrature' takes latents of at most 2 dimensions, got {model.latent.intrinsic}; use 'iwae'"
        )
    x = check_points(X)
    centre, scale = x.double().mean(0), data_scale(x)
    model.standardise(centre, scale)
    x = ((x.double() - centre) / scale).to(dtype=model.raw.dtype, device="cpu")
    level = sigma_tilde / scale
    if objective != "quadrature" and encoder is None:
        encoder = _perceptron(model, x, seed)
    noisy = PerturbedData(x, level, mode, spawn_seed(seed, "noise"))
    take = noisy.__getitem__ if mode == "fixed" else x.__getitem__
    k = 1 if objective == "vae" else draws

    def loss(pair: _Pair, batch: Tensor, info: StepInfo) -> dict[str, Tensor]:
        rows = perturb(batch, level, info.generator) if mode == "fresh" else batch
        out = {"sigma": pair.model.log_sigma.detach().exp().mean()}
        if objective == "quadrature":
            shift = torch.rand(
                pair.model.latent.intrinsic, generator=info.generator, device=rows.device, dtype=rows.dtype
            )
            value = pair.model.quadrature(rows, nodes, shift)
        else:
            assert pair.encoder is not None
            value, log_w = pair.model.bound(rows, pair.encoder, k, info.generator, doubly=k > _DOUBLY)
            if log_w is not None:
                out["ess"] = effective_sample_size(log_w.detach()).mean()
        return out | {"loss": -value.mean()}

    def groups(pair: nn.Module) -> list[dict[str, Any]]:
        rest = [p for p in pair.parameters() if p is not model.raw]
        return [{"params": rest, "lr": lr}, {"params": [model.raw], "lr": lr_sigma}]

    settings: dict[str, Any] = {"optimizer": "adam", "schedule": "cosine"} | options
    result = train(
        _Pair(model, None if objective == "quadrature" else encoder),
        loss,  # type: ignore[arg-type]
        Batches(BatchPlan(len(x), batch_size, seed=spawn_seed(seed, "batches")), take),
        steps=steps,
        **settings,
        lr=lr,
        param_groups=groups,
        clip_norm=clip_norm,
        seed=seed,
    )
    last = result.history[-max(1, len(result.history) // 10) :]
    return LikelihoodFit(
        sigma_hat=model.sigma,
        sigma_tilde=float(sigma_tilde),
        scale=scale,
        objective=objective,
        value=-sum(r["loss"] for r in last) / len(last),
        ess=sum(r["ess"] for r in last) / len(last) if "ess" in last[0] else None,
        resolution=model.resolution(nodes) if objective == "quadrature" else None,
        trace=result.history,
        encoder=encoder,
        seconds=result.seconds,
    )


@torch.no_grad()
def _perceptron(model: LatentGaussianGenerator, x: Float[Tensor, "n *shape"], seed: int) -> nn.Module:
    latent = model.latent
    charts = latent.charts if isinstance(latent, Charts) else 0
    prior = latent.latent if isinstance(latent, Charts) else latent
    if not isinstance(prior, NormalLatent):
        raise ValueError(
            f"objectives with an encoder need a normal latent, got {type(prior).__name__}; use 'quadrature'"
        )
    with isolated_rng(spawn_seed(seed, "encoder")):
        net = MLPEncoder(x.shape[1:], charts, 2 * prior.dim, width=64, layers=2)
    return GaussianEncoder(net).to(model.raw)
