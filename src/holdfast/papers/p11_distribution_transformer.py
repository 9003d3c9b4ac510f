"""Whittle et al., "Distribution Transformers: Fast Approximate Bayesian Inference With On-The-Fly Prior Adaptation",
ICML 2026."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import ExpTransform, InverseGamma

from holdfast.core.random import generator, isolated_rng, spawn_seed
from holdfast.distribution import GaussianMixture
from holdfast.distribution.transformer import (
    BearingObservation,
    DistributionTransformer,
    InferenceProblem,
    InverseGammaMetaPrior,
    LinearObservation,
    MixtureFilter,
    MixtureMetaPrior,
    OutlierObservation,
    ParametricPriorEmbedding,
    RangeObservation,
    VarianceObservation,
    WishartMixtureMetaPrior,
    extended_kalman,
    fit_amortised,
    kalman_moment_matched,
    kernel_log_prob,
    particle_filter,
    prior_blind,
    series_log_prob,
    simulation_based_calibration,
    svi_mixture,
)
from holdfast.distribution.transformer.observations import wrap
from holdfast.papers.catalogue import describe
from holdfast.papers.record import Claim, Scale

__all__ = ["PAPER"]

_ONE = torch.eye(1)
_SVI_STEPS, _SVI_PROBLEMS = 200, 300


@dataclass(frozen=True)
class _Size:
    steps: tuple[int, int] = (1000, 800)
    """Training of the nets for one observation, and of the net for the filter."""
    batch: tuple[int, int] = (64, 64)
    problems: int = 300
    sequences: int = 200
    particles: int = 2000
    timed: int = 5
    """Fits of the variational baseline that are timed; all have the same number of steps."""
    calibrated: int = 1000


_SMOKE = _Size((3, 3), (16, 16), problems=20, sequences=8, particles=50, timed=1, calibrated=50)


def _network(seed: int, **options: Any) -> DistributionTransformer:
    with isolated_rng(spawn_seed(seed, "weights")):
        return DistributionTransformer(3, 1, {"z": 1}, width=32, heads=4, layers=3, hidden=128, **options)


def _grid_kl(p: GaussianMixture, q: Any, width: float = 25.0, points: int = 2501) -> Tensor:
    """KL(p || q) of densities on the line by the trapezium rule, one per problem."""
    at = torch.linspace(-width, width, points, dtype=torch.float64)[:, None, None].expand(-1, p.batch_shape[0], 1)
    log_p, log_q = p.to(torch.float64).log_prob(at), q.to(torch.float64).log_prob(at)
    return torch.trapezoid(log_p.exp() * (log_p - log_q), at[..., 0], dim=0)


def _one_observation(size: _Size, seed: int) -> dict[str, float]:
    problem = InferenceProblem(MixtureMetaPrior(3), {"z": LinearObservation(_ONE, _ONE)})
    model = _network(seed)
    with isolated_rng(spawn_seed(seed, "weights of the twin")):
        twin = prior_blind(model)
    options: dict[str, Any] = {"steps": size.steps[0], "batch_size": size.batch[0], "lr": 2e-3, "device": "cpu"}
    for net in (model, twin):
        fit_amortised(net, problem, seed=spawn_seed(seed, "training"), **options)
    rng = generator(spawn_seed(seed, "problems"))
    batch = problem.sample(size.problems, rng)
    phi, obs = batch.phi, batch.obs
    z = obs["z"][:, 0]
    exact = phi.linear_gaussian_update(_ONE, _ONE, z)
    rows = {
        "dt": model.posterior(phi, obs).mixture,
        "blind": twin.posterior(phi, obs).mixture,
        "kalman": kalman_moment_matched(phi, _ONE, _ONE, z),
        "gaussian": exact.moment_match(),
        "prior": phi,
    }
    out = {f"{name}/kl": float(_grid_kl(exact, q).mean()) for name, q in rows.items()}
    found = simulation_based_calibration(model.posterior, problem, size.calibrated, generator=rng)
    out |= {"dt/sbc_p": found.p_value, "dt/coverage90": found.coverage(0.9)}

    begin = time.perf_counter()
    for _ in range(5):
        model.posterior(phi, obs)
    out["dt/seconds"] = (time.perf_counter() - begin) / 5
    fitted = []
    begin = time.perf_counter()
    for i in range(size.timed):
        one, zi = phi[i : i + 1], {"z": obs["z"][i : i + 1]}
        fitted.append(
            svi_mixture(lambda u, one=one, zi=zi: problem.log_joint(one, u, zi), one, steps=_SVI_STEPS, generator=rng)
        )
    each = (time.perf_counter() - begin) / size.timed
    out["svi/seconds_each"] = each
    out["speed/ratio"] = each * _SVI_PROBLEMS / (out["dt/seconds"] * _SVI_PROBLEMS / size.problems)
    svi = GaussianMixture.cat(fitted)
    out["svi/kl"] = float(_grid_kl(exact[: size.timed], svi).mean())
    return out


def _chain(sequences: int, steps: int, sensor: OutlierObservation, seed: int) -> tuple[Tensor, Tensor]:
    """Draw states (B, T, 1) and observations (B, T, 1, 1) of x' = 0.95 x + N(0, 0.25), x_0 ~ N(0, 1)."""
    rng = generator(spawn_seed(seed, "chain"))
    x, states = torch.randn(sequences, 1, generator=rng), []
    for _ in range(steps):
        x = 0.95 * x + 0.5 * torch.randn(sequences, 1, generator=rng)
        states.append(x)
    found = torch.stack(states, 1)
    return found, sensor.sample(found, 1, rng)


def _kalman_chain(z: Tensor, x0: GaussianMixture, A: Tensor, Q: Tensor, R: float) -> list[GaussianMixture]:
    laws, law = [], x0
    for t in range(z.shape[1]):
        law = law.affine(A, None, Q).linear_gaussian_update(_ONE, R * _ONE, z[:, t, 0])
        laws.append(law)
    return laws


def _filtering(size: _Size, seed: int, arms: tuple[str, ...] = ("dt",)) -> dict[str, float]:
    sensor, A, Q, steps = OutlierObservation(), 0.95 * _ONE, 0.25 * _ONE, 20
    x, z = _chain(size.sequences, steps, sensor, seed)
    x0 = GaussianMixture.gaussian(torch.zeros(size.sequences, 1), _ONE)
    out: dict[str, float] = {}
    for arm in arms:
        problem = InferenceProblem(MixtureMetaPrior(3), {"z": sensor})
        model = _network(spawn_seed(seed, "filter"))
        fit_amortised(
            model,
            problem,
            steps=size.steps[1],
            batch_size=size.batch[1],
            lr=2e-3,
            prior_loss=arm == "dt",
            seed=spawn_seed(seed, "filter"),
            device="cpu",
        )
        nll = -series_log_prob(MixtureFilter(model, A, Q).run({"z": z}, x0), x)
        out |= {f"{arm}/filter_nll": float(nll.mean())}
        out |= {f"{arm}/nll_steps_1_5": float(nll[:, :5].mean()), f"{arm}/nll_steps_15_20": float(nll[:, 14:].mean())}
    for name, R in (("matched", sensor.moment_matched_variance), ("nominal", sensor.scale**2)):
        laws = _kalman_chain(z, x0, A, Q, R)
        out[f"kalman-{name}/filter_nll"] = -float(series_log_prob(laws, x).mean())
    rng = generator(spawn_seed(seed, "particles"))
    found = particle_filter(x0, A, Q, {"z": sensor}, {"z": z}, size.particles, generator=rng)
    out["particles/filter_nll"] = -float(kernel_log_prob(found, x, 0.08).mean())
    return out


def _inverse_gamma(seed: int) -> dict[str, float]:
    """Posteriors of a variance, K = 5, at the published sizes; the priors of the narrow law are Gamma(5, 5) draws."""
    out = {}
    for name, gamma in (("wide", (1.0, 1.0)), ("narrow", (5.0, 5.0))):
        problem = InferenceProblem(InverseGammaMetaPrior(gamma, gamma), {"z": VarianceObservation()})
        with isolated_rng(spawn_seed(seed, "inverse gamma")):
            model = DistributionTransformer(
                5, 1, {"z": 1}, prior=ParametricPriorEmbedding(2, 5, 64), width=64, sample_space=ExpTransform().inv
            )
        fit_amortised(model, problem, steps=5000, batch_size=2000, lr=1e-3, seed=seed, device="auto")
        device = next(model.parameters()).device
        phi, _, obs, mask = problem.sample(1000, generator(spawn_seed(seed, name), device))
        q = model.posterior(phi, obs, mask)
        exact = InverseGamma(phi[:, :1] + 0.5, phi[:, 1:] + obs["z"][:, 0].square() / 2)
        draws = torch.as_tensor(exact.sample(torch.Size([2000]))).clamp(1e-6, 1e6)
        out[f"inverse-gamma-{name}/kl"] = float((exact.log_prob(draws)[..., 0] - q.log_prob(draws)).mean())
    return out


def _sensor_fusion(seed: int, sequences: int = 100, steps: int = 20) -> dict[str, float]:
    """A point in the plane seen by a range and a bearing sensor; reported, with no claim of its own."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    block, noise = torch.tensor([[1.0, 0.6321], [0.0, 0.3679]]), torch.tensor([[0.1], [0.2]])
    A = torch.block_diag(block, block).to(device)
    G = torch.block_diag(noise, noise).to(device)
    Q = G @ G.mT
    sensors = {"range": RangeObservation(), "bearing": BearingObservation()}
    problem = InferenceProblem(WishartMixtureMetaPrior(4, 4), sensors)
    with isolated_rng(spawn_seed(seed, "fusion")):
        model = DistributionTransformer(4, 4, {"range": 1, "bearing": 1}, width=64)
    fit_amortised(model, problem, steps=2000, batch_size=5000, lr=1e-3, seed=seed, device="auto")
    rng = generator(spawn_seed(seed, "tracks"), device)
    start = torch.tensor([1.0, 0.0, 1.0, 0.0], device=device).expand(sequences, 4)
    x0 = GaussianMixture.gaussian(start, torch.eye(4, device=device))
    x, states = x0.sample(1, rng)[0], []
    for _ in range(steps):
        x = x @ A.mT + torch.randn(sequences, 2, generator=rng, device=device) @ G.mT
        states.append(x)
    track = torch.stack(states, 1)
    obs = {k: s.sample(track, 1, rng) for k, s in sensors.items()}
    out = {"fusion/dt/filter_nll": -float(series_log_prob(MixtureFilter(model, A, Q).run(obs, x0), track).mean())}

    def seen(u: Tensor) -> Tensor:
        return torch.stack([u[[0, 2]].norm(), torch.atan2(u[0], u[2])])

    def gap(a: Tensor, b: Tensor) -> Tensor:
        return torch.stack([a[:, 0] - b[:, 0], wrap(a[:, 1] - b[:, 1])], -1)

    law, laws = x0, []
    for t in range(steps):
        law = law.affine(A, None, Q)
        r = law.mean[:, [0, 2]].norm(dim=-1)
        R = torch.diag_embed(torch.stack([(0.1 * (r + 1)).square(), torch.full_like(r, 0.01)], -1))
        law = extended_kalman(law, seen, R, torch.cat([obs["range"][:, t, 0], obs["bearing"][:, t, 0]], -1), gap)
        laws.append(law)
    out["fusion/ekf/filter_nll"] = -float(series_log_prob(laws, track).mean())
    # Sequences go one by one: 1e5 particles of all would not fit.
    nll = []
    for i in range(sequences):
        part = {k: z[i : i + 1] for k, z in obs.items()}
        found = particle_filter(x0[i : i + 1], A, Q, sensors, part, 100_000, generator=rng)
        nll.append(-kernel_log_prob(found, track[i : i + 1], 0.08).mean())
    out["fusion/particles/filter_nll"] = float(torch.stack(nll).mean())
    return out


def _experiment(scale: Scale, seed: int) -> dict[str, float]:
    size = _SMOKE if scale == "smoke" else _Size()
    if scale == "gpu":
        size = _Size((1200, 1200), (256, 256))
    out = _one_observation(size, seed)
    out |= _filtering(size, seed, ("dt", "no-prior-loss") if scale == "gpu" else ("dt",))
    return out | _inverse_gamma(seed) | _sensor_fusion(seed) if scale == "gpu" else out


PAPER = describe(
    11,
    experiment=_experiment,
    seeds=5,
    claims=(
        Claim(
            "prior-used",
            "the posterior is nearer to the exact one: its KL is at most 0.2 of that of the same network without the "
            "prior",
            lambda v: v["dt/kl"] / v["blind/kl"],
            at_most=0.2,
        ),
        Claim(
            "mixture",
            "and at most 0.5 of that of the Kalman update of the prior's moments",
            lambda v: v["dt/kl"] / v["kalman/kl"],
            at_most=0.5,
        ),
        Claim(
            "filter",
            "chained over 20 steps of an outlier sensor, the true state costs 0.5 nats less than under a Kalman filter "
            "of the sensor's variance",
            lambda v: v["dt/filter_nll"] - v["kalman-matched/filter_nll"],
            at_most=-0.5,
        ),
        Claim(
            "particles",
            "and at most 0.25 nats more than under 2000 particles with a kernel",
            lambda v: v["dt/filter_nll"] - v["particles/filter_nll"],
            at_most=0.25,
        ),
        Claim(
            "no-drift",
            "errors do not pile up: steps 15 to 20 cost no more than steps 1 to 5",
            lambda v: v["dt/nll_steps_15_20"] - v["dt/nll_steps_1_5"],
            at_most=0.0,
            note="lower on three seeds of five, higher by 0.04 and 0.09 on the others",
        ),
        Claim(
            "speed",
            "300 posteriors in one pass are 100 times faster than 300 variational fits of 200 steps, one after the "
            "other",
            lambda v: v["speed/ratio"],
            at_least=100,
        ),
    ),
)
