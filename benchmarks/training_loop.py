"""Cost of the training loop against loops written by hand, in one run.

The model is a multilayer perceptron (64-128-128-10, batch 64), small enough for overhead to show. Every repetition
fits it anew in each way, in turn and from the same weights; the ratio is taken within a repetition, so slow moments
of the machine meet both sides. Reported are the median ratio and the smallest and largest.

On a machine that is busy with other work, ``--clock cpu`` counts processor time instead of wall time.

    python benchmarks/training_loop.py [--steps 2000] [--repetitions 11] [--clock wall|cpu] [--json]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from holdfast.core.batching import Batches, BatchPlan
from holdfast.core.random import generator
from holdfast.core.training import train

ROWS, BATCH = 6400, 64


def network() -> nn.Module:
    """Return the perceptron with the same weights each time."""
    torch.manual_seed(100)
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))


def holdfast_loop(x: torch.Tensor, y: torch.Tensor, steps: int) -> nn.Module:
    """Fit by :func:`holdfast.core.training.train`."""
    net = network()
    source = Batches(BatchPlan(ROWS, BATCH, seed=100), lambda rows: (x[rows], y[rows]))
    train(net, lambda m, b, info: F.cross_entropy(m(b[0]), b[1]), source, steps=steps, device="cpu", seed=100)
    return net


def indexed_loop(x: torch.Tensor, y: torch.Tensor, steps: int, fused: bool | None = None) -> nn.Module:
    """Fit by a bare loop that selects rows of a permutation."""
    net, done, rng = network(), 0, generator(100)
    opt = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.0, fused=fused)
    while done < steps:
        for rows in torch.randperm(ROWS, generator=rng).split(BATCH):
            if done == steps:
                break
            loss = F.cross_entropy(net(x[rows]), y[rows])
            opt.zero_grad()
            loss.backward()
            opt.step()
            done += 1
    return net


def fused_loop(x: torch.Tensor, y: torch.Tensor, steps: int) -> nn.Module:
    """Fit by the bare loop with the fused optimizer, the fastest a loop by hand gets."""
    return indexed_loop(x, y, steps, fused=True)


def loader_loop(x: torch.Tensor, y: torch.Tensor, steps: int) -> nn.Module:
    """Fit by a bare loop over PyTorch's DataLoader."""
    net, done = network(), 0
    opt = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.0)
    loader = DataLoader(TensorDataset(x, y), batch_size=BATCH, shuffle=True, generator=generator(100))
    while done < steps:
        for a, b in loader:
            if done == steps:
                break
            loss = F.cross_entropy(net(a), b)
            opt.zero_grad()
            loss.backward()
            opt.step()
            done += 1
    return net


WAYS: dict[str, Callable[[torch.Tensor, torch.Tensor, int], nn.Module]] = {
    "holdfast": holdfast_loop,
    "bare loop, indexed batches": indexed_loop,
    "bare loop, indexed batches, fused optimizer": fused_loop,
    "bare loop, DataLoader": loader_loop,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--repetitions", type=int, default=11)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rng = generator(100)
    x = torch.randn(ROWS, 64, generator=rng)
    y = (x @ torch.randn(64, 10, generator=rng)).argmax(1)

    accuracy = {}
    for name, way in WAYS.items():  # warm-up, and the proof that all of them train
        net = way(x, y, min(options.steps, 500))
        accuracy[name] = float((net(x).argmax(1) == y).float().mean())
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    order = list(WAYS)
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    for repetition in range(options.repetitions):
        shift = repetition % len(order)
        for name in order[shift:] + order[:shift]:
            start = clock()
            WAYS[name](x, y, options.steps)
            seconds[name].append(clock() - start)

    ours = seconds["holdfast"]
    rows = []
    for name, theirs in seconds.items():
        ratios = [a / b for a, b in zip(ours, theirs)]
        rows.append(
            {
                "against": name,
                "microseconds_per_step": statistics.median(theirs) / options.steps * 1e6,
                "ratio": statistics.median(ratios),
                "low": min(ratios),
                "high": max(ratios),
                "accuracy_after_warm_up": accuracy[name],
            }
        )
    if options.json:
        about = {"torch": torch.__version__, "python": platform.python_version(), **vars(options)}
        print(json.dumps({"settings": about, "results": rows[1:], "holdfast": rows[0]}))
        return
    print(
        f"{options.steps} steps, {options.repetitions} repetitions, {options.threads} thread(s), {options.clock} time"
    )
    print(f"{'':45s} {'us/step':>8s}  {'holdfast takes (times as long)':>32s}")
    for row in rows:
        ratio = f"{row['ratio']:.3f}  [{row['low']:.3f}, {row['high']:.3f}]" if row["against"] != "holdfast" else ""
        print(f"{row['against']:45s} {row['microseconds_per_step']:8.1f}  {ratio:>32s}")


if __name__ == "__main__":
    main()
