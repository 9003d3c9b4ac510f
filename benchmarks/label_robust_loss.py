"""Cost of the adaptive label-robust loss against cross-entropy, of the loss alone and of a whole training step.

The step is forward, loss, backward and one SGD update with momentum of a perceptron (256-512-512-K). Every repetition
times each loss in turn on the same batches, so slow moments of the machine meet all of them; the ratio to
cross-entropy is taken within a repetition. Reported are the median ratio, the smallest and the largest. Scores come
from a network in training, so the temperatures are as mixed as they are in use.

    python benchmarks/label_robust_loss.py [--batch 128] [--steps 100] [--repetitions 15] [--json]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.core.random import generator, isolated_rng
from holdfast.shift import AdaptiveLDR, ldr_kl

WIDTH, HIDDEN = 256, 512
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def losses(n: int, k: int) -> dict[str, Loss]:
    """Cross-entropy, the loss at one temperature, and the adaptive loss with either solver."""
    found: dict[str, Loss] = {
        "cross-entropy": lambda f, y, index: F.cross_entropy(f, y),
        "fixed temperature": lambda f, y, index: ldr_kl(f, y, 1.0, 0.1),
    }
    for name, solver in (("adaptive, one step", "one_step"), ("adaptive, exact", "fixed_point")):
        found[name] = AdaptiveLDR(n, k, 1.0, solver=solver, normalize="l1")
    return found


def steps(loss: Loss, k: int, batch: int, count: int) -> tuple[float, Tensor]:
    """Seconds per training step, and the last scores."""
    rng = generator(1)
    with isolated_rng(0):
        net = nn.Sequential(
            nn.Linear(WIDTH, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, k)
        )
    optimiser = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    centers = torch.randn(k, WIDTH, generator=rng)
    y = torch.randint(k, (count + 5, batch), generator=rng)
    x = centers[y] + torch.randn(count + 5, batch, WIDTH, generator=rng)
    index = torch.arange(batch)
    start = 0.0
    for i in range(count + 5):
        if i == 5:
            start = time.perf_counter()
        scores = net(x[i])
        optimiser.zero_grad()
        loss(scores, y[i], index).backward()
        optimiser.step()
    return (time.perf_counter() - start) / count, scores.detach()


def alone(loss: Loss, scores: Tensor, y: Tensor, count: int) -> float:
    """Seconds per loss and gradient on given scores."""
    index, f = torch.arange(len(y)), scores.clone().requires_grad_()
    start = time.perf_counter()
    for _ in range(count):
        f.grad = None
        loss(f, y, index).backward()
    return (time.perf_counter() - start) / count


def measure(k: int, batch: int, count: int, repetitions: int) -> list[dict[str, object]]:
    """One row per loss: milliseconds and ratios of the step and of the loss alone."""
    times: dict[str, dict[str, list[float]]] = {"step": {}, "loss": {}}
    y = torch.randint(k, (batch,), generator=generator(2))
    for _ in range(repetitions):
        for name, loss in losses(batch, k).items():
            seconds, scores = steps(loss, k, batch, count)
            times["step"].setdefault(name, []).append(seconds)
            times["loss"].setdefault(name, []).append(alone(loss, scores, y, count))
    rows = []
    for name in times["step"]:
        row: dict[str, object] = {"classes": k, "batch": batch, "loss": name}
        for what, found in times.items():
            ratios = [a / b for a, b in zip(found[name], found["cross-entropy"])]
            row[f"{what}_ms"] = 1e3 * statistics.median(found[name])
            row[f"{what}_ratio"] = [statistics.median(ratios), min(ratios), max(ratios)]
        rows.append(row)
    return rows


def main() -> None:
    """Print one line per loss and number of classes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 1000])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = [row for k in args.classes for row in measure(k, args.batch, args.steps, args.repetitions)]
    about = {"torch": torch.__version__, "threads": args.threads, "machine": platform.processor() or platform.machine()}
    if args.json:
        print(json.dumps({**about, "rows": rows}, indent=1))
        return
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    print(
        f"{'classes':>8} {'loss':<20} {'step ms':>8} {'ratio [min, max]':>20} {'loss ms':>8} {'ratio [min, max]':>20}"
    )
    for row in rows:
        cells = [
            f"{row[f'{what}_ms']:8.3f} {'{:.2f} [{:.2f}, {:.2f}]'.format(*row[f'{what}_ratio']):>20}"
            for what in ("step", "loss")
        ]
        print(f"{row['classes']:>8} {row['loss']:<20} {' '.join(cells)}")


if __name__ == "__main__":
    main()
