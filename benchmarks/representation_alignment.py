"""Steps to equal quality: alignment with an encoder, warm-up and self-alignment against the plain run.

Every arm of a seed starts from the same weights and sees the same batches and noise (16 x 16 digits, a transformer of
six blocks). The plain run is trained for N steps; what it reaches in the end, the Fréchet distance of its samples and
the accuracy of a linear probe of block 3 at t = 0.3, are the marks. Each arm is measured along the way, and the step at
which it first passes a mark is read off by linear interpolation; the factor is N over that step. The steps of the
warm-up count by the blocks they evaluate. An arm that does not pass within N steps has a factor below 1.

    python benchmarks/representation_alignment.py [--steps 300] [--checkpoints 10] [--seeds 3] [--json]
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from holdfast.core.random import isolated_rng, spawn_seed
from holdfast.diffusion import DiffusionObjective, ExponentialDecay, SelfAlignmentLoss, WarmupConfig, embed_weights
from holdfast.diffusion.phases import block_cost
from holdfast.metrics import t_interval
from holdfast.papers._aligned_digits import World, align, digit_world, fit, frechet, make_model, probes
from holdfast.papers.p22_erw import warm_up

Curve = list[tuple[float, float, float]]
"""Steps spent, Fréchet distance, probe accuracy."""

ARMS = ("plain", "encoder", "warm-up", "self")
MARKS = {"Fréchet distance": 1, "probe": 2}


def measured(world: World, seed: int, model: Any, every: int, spent: float = 0.0, **options: Any) -> Curve:
    """Train ``model`` and return its curve."""
    curve: Curve = []

    def watch(module: Any, step: int) -> None:
        accuracy = probes(world, module, [world.block])[world.block]
        curve.append((spent + step, frechet(world, module), accuracy))

    fit(world, model, seed, watch=watch, watch_every=every, **options)
    return curve


def run(world: World, seed: int, arm: str, every: int) -> Curve:
    """Return the curve of one arm."""
    model = make_model(world, seed)
    if arm == "encoder":
        return measured(world, seed, model, every, terms=[align(world, seed)])
    if arm == "self":
        with isolated_rng(spawn_seed(seed, "projector")):
            term = SelfAlignmentLoss(2, 4, width=world.network["width"], max_gap=0.2, weight=0.5)
        objective = DiffusionObjective(model, [term], teacher_decay=world.ema)
        return measured(world, seed, model, every, objective=objective)
    if arm == "warm-up":
        warm = world.steps // 4
        short, term = warm_up(world, seed, warm)
        embed_weights(short.network, model.network, WarmupConfig(world.block, warm).places(world.depth))
        spent = warm * block_cost(short.network) / world.depth
        fading = term.at(world.block, weight=ExponentialDecay(0.5, half_life=world.steps / 5))
        steps = round(world.steps - spent)
        return measured(world, seed, model, every, spent, terms=[fading], steps=steps - steps % every)
    return measured(world, seed, model, every)


def reached(curve: Curve, column: int, mark: float) -> float | None:
    """Return the step at which a curve first passes ``mark``, downwards for distances and upwards for accuracies."""
    sign = -1 if column == 1 else 1
    points = [(row[0], sign * row[column]) for row in curve]
    goal = sign * mark
    if points[0][1] >= goal:
        return points[0][0]
    for (a, low), (b, high) in pairwise(points):
        if high >= goal:
            return a + (b - a) * (goal - low) / (high - low)
    return None


def summary(curves: dict[str, list[Curve]], steps: int) -> list[dict[str, Any]]:
    """Return a row per arm and mark: the factor with its interval, and in how many seeds the mark was passed."""
    rows = []
    for arm in ARMS[1:]:
        for name, column in MARKS.items():
            marks = [plain[-1][column] for plain in curves["plain"]]
            found = [reached(c, column, m) for c, m in zip(curves[arm], marks)]
            factors = [steps / s for s in found if s is not None]
            row: dict[str, Any] = {"arm": arm, "mark": name, "passed": len(factors), "seeds": len(found)}
            if len(factors) == len(found):
                i = t_interval(factors)
                row |= {"factor": i.estimate, "low": i.low, "high": i.high}
            row["end"] = sum(c[-1][column] for c in curves[arm]) / len(found)
            row["plain_end"] = sum(marks) / len(marks)
            rows.append(row)
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300, help="of the plain run")
    parser.add_argument("--checkpoints", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=100)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    world = replace(digit_world("small"), steps=options.steps, samples=options.samples, sampling_steps=8)
    jobs: list[tuple[int, str]] = [(s, a) for s in range(options.seeds) for a in ARMS]
    curves: dict[str, list[Curve]] = {arm: [] for arm in ARMS}
    console = Console(stderr=True)
    progress: Callable[..., Any] = track
    for s, arm in progress(jobs, "training", console=console):
        curves[arm].append(run(world, options.first_seed + s, arm, options.steps // options.checkpoints))
    rows = summary(curves, options.steps)
    if options.json:
        about = {"torch": torch.__version__, "python": platform.python_version(), **vars(options)}
        print(json.dumps({"settings": about, "results": rows, "curves": curves}))
        return
    table = Table("arm", "to the plain run's", "factor in steps [95% CI]", "seeds that passed", "end (plain run)")
    for r in rows:
        factor = f"{r['factor']:.2f} [{r['low']:.2f}, {r['high']:.2f}]" if "factor" in r else "< 1 in some seed"
        ends = f"{r['end']:.3g} ({r['plain_end']:.3g})"
        table.add_row(r["arm"], r["mark"], factor, f"{r['passed']} of {r['seeds']}", ends)
    Console().print(table)


if __name__ == "__main__":
    main()
