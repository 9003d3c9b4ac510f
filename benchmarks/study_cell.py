"""A study's cell against the same model in a bare PyTorch loop: what the library adds to training.

Both train the same network (same weights at the start, same batches in the same order, fused AdamW with the same
options, a cosine schedule) for the same steps on one thread; rounds alternate between the two, so that a busy machine
slows both.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn

from holdfast.core.batching import BatchPlan
from holdfast.core.random import isolated_rng, spawn_seed
from holdfast.data import Environments, load_named
from holdfast.data.shifts import apply_shift
from holdfast.nn import Network, make_backbone
from holdfast.shift import ERM
from holdfast.study.measure import one_thread, parts_of, run_cell
from holdfast.study.plan import Cell


def bare(model: ERM, data: Environments, steps: int) -> tuple[float, nn.Module]:
    """Train ``model``'s network from its initial weights in a plain loop; return the seconds and the network."""
    x = torch.from_numpy(data.x.copy())
    y = torch.from_numpy(data.labels.copy())
    seed = model.seed_
    with isolated_rng(spawn_seed(seed, "weights")):
        encoder = make_backbone(model.input_.signature, size=model.size)
        network = Network(encoder, nn.Linear(encoder.out_dim, len(data.classes)))
    start = time.perf_counter()
    decayed = [p for p in network.parameters() if p.ndim > 1]
    other = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": model.weight_decay}, {"params": other, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=model.lr, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: 0.5 * (1 + math.cos(math.pi * s / steps)))
    plan = BatchPlan(len(x), model.batch_size, seed=spawn_seed(seed, "batches"))
    network.train()
    done = epoch = 0
    while done < steps:
        for rows in plan.epoch(epoch):
            if done == steps:
                break
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(network(x[rows]), y[rows]).backward()
            optimizer.step()
            schedule.step()
            done += 1
        epoch += 1
    return time.perf_counter() - start, network.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--size", default="small")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    data = apply_shift(load_named("sklearn-digits"), "rotation", seed=0, angles=[0, 30, 60])
    params = {"steps": args.steps, "size": args.size}
    cell = Cell("digits", "benchmark", "erm", "erm", params, ("rotation=60",), 0, 0, 0.2)
    fit = parts_of(cell, data).fit
    shares, ratios, agreement = [], [], 0.0
    with one_thread():
        for round_ in range(args.rounds + 1):
            outcome = run_cell(cell, data)
            if outcome.status != "done":
                raise SystemExit(outcome.message)
            model = ERM(**params, random_state=0)
            x, y, environment = fit.pooled()
            start = time.perf_counter()
            model.fit(x, y, environment=environment)
            library = time.perf_counter() - start
            plain, network = bare(model, fit, args.steps)
            if round_ == 0:  # warm-up, and the check that both do the same work
                with torch.inference_mode():
                    p = network(torch.from_numpy(fit.x.copy())).softmax(1).numpy()
                agreement = float(abs(p - model.predict_proba(x)).max())
                continue
            ratios.append(library / plain)
            shares.append((plain, library, outcome.result["fit_seconds"], outcome.result["evaluate_seconds"]))
    result = {
        "ratio": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        "target": 1.05,
        "bare_seconds": statistics.median(s[0] for s in shares),
        "fit_seconds": statistics.median(s[1] for s in shares),
        "cell_fit_seconds": statistics.median(s[2] for s in shares),
        "cell_evaluate_seconds": statistics.median(s[3] for s in shares),
        "largest_difference_of_probabilities": agreement,
        "steps": args.steps,
        "rounds": args.rounds,
    }
    if args.json:
        print(json.dumps(result))
        return
    print(f"bare loop {result['bare_seconds']:.3f} s, fit of the study's cell {result['fit_seconds']:.3f} s")
    print(f"ratio {result['ratio']:.3f} [{result['ratio_low']:.3f}, {result['ratio_high']:.3f}], target <= 1.05")
    print(f"in a cell: fit {result['cell_fit_seconds']:.3f} s, measuring {result['cell_evaluate_seconds']:.3f} s")
    print(f"largest difference between the two models' probabilities: {agreement:.1e}")


if __name__ == "__main__":
    main()
