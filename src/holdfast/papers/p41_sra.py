"""Jiang et al., "No other representation component is needed: diffusion transformers can provide representation
guidance by themselves", ICLR 2026."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.core.random import generator, isolated_rng, spawn_seed
from holdfast.diffusion.denoiser import Denoiser
from holdfast.diffusion.objective import DiffusionObjective
from holdfast.diffusion.self_alignment import SelfAlignmentLoss
from holdfast.metrics.similarity import mean_cosine
from holdfast.papers._aligned_digits import World, align, digit_world, fit, frechet, held_out_loss, make_model, probes
from holdfast.papers.catalogue import describe
from holdfast.papers.record import Claim, Scale, Values

__all__ = ["PAPER"]

GAP = 0.2
PREMISE_TIMES = (0.4, 0.6, 0.8)


def _blocks(world: World) -> tuple[int, int]:
    """Student's and teacher's block: a third and two thirds of the depth."""
    return world.depth // 3, 2 * world.depth // 3


def _term(world: World, seed: int, **options: Any) -> SelfAlignmentLoss:
    student, teacher = _blocks(world)
    with isolated_rng(spawn_seed(seed, "projector")):
        settings: dict[str, Any] = {"width": world.network["width"], "max_gap": GAP, "weight": 0.5}
        return SelfAlignmentLoss(student, options.pop("teacher", teacher), **(settings | options))


def _objective(world: World, model: Denoiser, term: SelfAlignmentLoss, **options: Any) -> DiffusionObjective:
    return DiffusionObjective(model, [term], teacher_decay=world.ema, **options)


_ARMS: dict[str, dict[str, Any]] = {
    "sra": {},
    "sra-no-noise-gap": {"max_gap": 0.0},
    "sra-no-layer-gap": {"teacher": None, "allow_same_block": True},
    "sra-no-head": {"head": None},
}
"""Self-alignment and what is taken from it; ``None`` for the teacher's block stands for the student's own."""


def _shaken(world: World, seed: int) -> Denoiser:
    """An untrained network whose blocks do something: fresh adaLN-Zero blocks are the identity."""
    model = make_model(world, seed)
    network: Any = model.network
    with isolated_rng(spawn_seed(seed, "shaken")):
        for block in network.blocks.blocks:
            nn.init.xavier_uniform_(block.modulation[1].weight)
            nn.init.normal_(block.modulation[1].bias, std=0.5)
    return model.requires_grad_(False)


def _random_cosine(world: World, seed: int) -> dict[str, float]:
    """What a head reaches when the network below it is random and stays so."""
    model, term = _shaken(world, seed), _term(world, seed)
    objective = _objective(world, model, term, denoise=False, stop_at=_blocks(world)[0])
    run = fit(world, model, seed, objective=objective, ema=None)
    return {
        "random-network/cosine": 1 - run.history[-1]["self-alignment"],
        "random-network/centred_cosine": _centred_cosine(world, model, term),
    }


@torch.no_grad()
def _centred_cosine(world: World, model: Any, term: SelfAlignmentLoss) -> float:
    """Cosine at t = 0.6 of what differs between images: each place's mean over other images is taken off first."""
    rows, t = world.probe_rows // 2, 0.6
    rng = generator(spawn_seed(0, "cosine noise"))
    x0 = world.other[:rows].to(world.device)
    eps = torch.randn(world.other[:rows].shape, generator=rng).to(world.device)

    def tap(block: int, time: float) -> Tensor:
        x = model.path.noise(x0, eps, torch.full((rows,), time, device=x0.device))
        return model(x, time, taps=(block,), stop_at=block).taps[block]

    p, z = term.head(tap(term.student_block, t)), tap(term.teacher_block, t - term.max_gap)
    return mean_cosine((p - p.mean(0)).flatten(0, 1).cpu(), (z - z.mean(0)).flatten(0, 1).cpu())


def _premise(world: World, model: nn.Module) -> dict[str, float]:
    """Probe accuracy of the student's block at each time, and of the teacher's at the time a gap earlier."""
    student, teacher = _blocks(world)
    out: dict[str, float] = {}
    gains: list[float] = []
    for t in PREMISE_TIMES:
        early = probes(world, model, [student], t)[student]
        late = probes(world, model, [teacher], t - GAP)[teacher]
        out |= {f"base/probe@{student},t={t}": early, f"base/probe@{teacher},t={t - GAP:.1f}": late}
        gains.append(late - early)
    return out | {"base/premise": sum(gains) / len(gains)}


def _run(world: World, seed: int, arms: dict[str, dict[str, Any]], ticks: int = 0) -> dict[str, float]:
    """Train every arm; with ``ticks``, take the Fréchet distance that many times on the way as well."""
    student = _blocks(world)[0]
    out: dict[str, float] = {}

    def watched(name: str) -> dict[str, Any]:
        def watch(module: nn.Module, step: int) -> None:
            out[f"{name}/frechet@{step}"] = frechet(world, module)

        return {"watch": watch, "watch_every": world.steps // ticks} if ticks else {}

    for name in ("base", *arms, "repa"):
        model = make_model(world, seed)
        if name == "base":
            run = fit(world, model, seed, **watched(name))
        elif name == "repa":
            run = fit(world, model, seed, terms=[align(world, seed)], **watched(name))
        else:
            options = dict(arms[name])
            if options.get("teacher", 0) is None:
                options["teacher"] = student
            term = _term(world, seed, **options)
            objective = _objective(world, model, term)
            run = fit(world, model, seed, objective=objective, **watched(name))
            out[f"{name}/cosine"] = 1 - run.history[-1]["self-alignment"]
            out[f"{name}/centred_cosine"] = _centred_cosine(world, model, term)
        out[f"{name}/frechet"] = frechet(world, model)
        out[f"{name}/fit_seconds"] = run.seconds
        if name in ("base", "sra", "repa"):
            out[f"{name}/velocity_loss"] = held_out_loss(world, model)
            out[f"{name}/probe"] = probes(world, model, [student], 0.6)[student]
        if name == "base":
            out |= _premise(world, model)
    out |= _random_cosine(world, seed)
    out["untrained/frechet"] = frechet(world, make_model(world, seed))
    return out


def _experiment(scale: Scale, seed: int) -> dict[str, float]:
    if scale == "gpu":
        from holdfast.papers._aligned_photos import photo_world

        return _run(photo_world(), seed, {"sra": {}}, ticks=3)
    # Half of the usual batch: seven networks are trained for one seed.
    return _run(replace(digit_world(scale), batch_size=32), seed, _ARMS)


def _over(a: str, b: str) -> Callable[[Values], float]:
    return lambda v: v[a] / v[b]


def _gaps(v: Values) -> float:
    """Fréchet distance over the mean of the two arms that lack a gap."""
    lacking = [v[f"sra-no-{gap}-gap/frechet"] for gap in ("noise", "layer") if f"sra-no-{gap}-gap/frechet" in v]
    return v["sra/frechet"] / (sum(lacking) / len(lacking)) if lacking else 1.0


PAPER = describe(
    41,
    experiment=_experiment,
    seeds=5,
    claims=(
        Claim(
            "premise",
            "without alignment, the later block at less noise is 2 points better for a linear probe than the earlier "
            "block at more noise",
            lambda v: v["base/premise"],
            at_least=0.02,
        ),
        Claim(
            "generation",
            "samples of the self-aligned model are at most 3% farther from real images (Fréchet distance)",
            _over("sra/frechet", "base/frechet"),
            at_most=1.03,
        ),
        Claim(
            "denoising",
            "its velocity loss on other images is at most 2% higher",
            _over("sra/velocity_loss", "base/velocity_loss"),
            at_most=1.02,
        ),
        Claim(
            "gaps",
            "both gaps matter: the Fréchet distance is no larger than the mean without the noise gap or the layer gap",
            _gaps,
            at_most=1.0,
            note="all arms end within 1% of each other: 450 steps of 32 images are too few to tell them apart",
        ),
        Claim(
            "prediction",
            "the student predicts the teacher's features with a mean cosine of 0.8",
            lambda v: v["sra/cosine"],
            at_least=0.8,
        ),
        Claim(
            "prediction-over-random",
            "that is 0.2 above what a head reaches on a frozen random network",
            lambda v: v["sra/cosine"] - v["random-network/cosine"],
            at_least=0.2,
            note="tokens of a random network share a large common part, so that a head reaches 0.993; with "
            "each place's mean taken off it is 0.914 against 0.930 after training",
        ),
        Claim(
            "cost",
            "training takes at most 1.6 times as long",
            _over("sra/fit_seconds", "base/fit_seconds"),
            at_most=1.6,
        ),
        Claim(
            "representation",
            "the student's block becomes a point better for a linear probe at t = 0.6",
            lambda v: v["sra/probe"] - v["base/probe"],
            at_least=0.01,
            null=0.0,
            note="no gain within 450 steps of 32 images, for alignment with an encoder hardly more (0.9 points)",
        ),
    ),
)
