"""How many sets a second are embedded, against the size of a set, and whether time grows linearly with it.

Every encoder maps sets of 10 features to codes of 32 numbers, in evaluation, in batches of as many sets as make 16384
points (one at least). The kernel mean embedding is the fixed peer. The exponent is the slope of log seconds a set over
log size in the upper half of the sizes: 1 is linear, 2 is what attention tends to. With ``--train`` a step of training
with the diffusion generator is timed as well.

    python benchmarks/set_embedding.py [--sizes 64 256 1024 4096 16384] [--repeats 5] [--train] [--json]
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable

import numpy as np
import torch

from holdfast.core.engine import pick_device
from holdfast.distribution.embedding import GDE
from holdfast.distribution.generators.ddpm import ConditionalDDPM
from holdfast.nn.sets import (
    AttentionSetEncoder,
    GNNSetEncoder,
    KernelMeanEncoder,
    MeanEncoder,
    PooledSetEncoder,
    ResNetSetEncoder,
)

FEATURES, CODE, POINTS, ATTENTION_LIMIT = 10, 32, 16384, 4096

ENCODERS: dict[str, Callable[[], PooledSetEncoder]] = {
    "resnet": lambda: ResNetSetEncoder(FEATURES, out_dim=CODE),
    "gnn": lambda: GNNSetEncoder(FEATURES, out_dim=CODE),
    "resnet, median": lambda: ResNetSetEncoder(FEATURES, out_dim=CODE, pool="median"),
    "attention": lambda: AttentionSetEncoder(FEATURES, out_dim=CODE),
    "kernel mean": lambda: KernelMeanEncoder(FEATURES, out_dim=CODE, bandwidth=3.0),
    "mean": lambda: MeanEncoder(FEATURES, out_dim=CODE),
}


def seconds(work: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Return the median time of a call, after one that is not counted."""
    found = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - begin)
    return float(np.median(found[1:]))


def encode(encoder: PooledSetEncoder, x: torch.Tensor) -> Callable[[], object]:
    """Return a function that encodes ``x``."""

    def work() -> object:
        with torch.no_grad():
            return encoder(x)

    return work


def step(encoder: PooledSetEncoder, x: torch.Tensor) -> Callable[[], object]:
    """Return a function that takes the loss and its gradient."""
    model = GDE(encoder, ConditionalDDPM(FEATURES, CODE, steps=100, beta_end=0.08, loss_points=16)).to(x.device)
    return lambda: model.loss(x).backward()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 256, 1024, 4096, 16384])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--train", action="store_true", help="time a step of training as well")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()
    device = pick_device(options.device)

    rows = []
    for name, make in ENCODERS.items():
        torch.manual_seed(0)
        encoder = make().to(device).eval()
        times: dict[int, float] = {}
        trained: dict[int, float] = {}
        for size in options.sizes:
            if name == "attention" and size > ATTENTION_LIMIT:
                continue
            batch = max(1, POINTS // size)
            x = torch.randn(batch, size, FEATURES, device=device)
            times[size] = seconds(encode(encoder, x), options.repeats, device) / batch
            if options.train:
                trained[size] = seconds(step(encoder, x), options.repeats, device) / batch
        upper = sorted(times)[len(times) // 2 :]
        slope = float("nan")
        if len(upper) > 1:
            slope = float(np.polyfit(np.log(upper), np.log([times[s] for s in upper]), 1)[0])
        rows.append(
            {
                "encoder": name,
                "sets_per_second": {s: 1 / t for s, t in times.items()},
                "trained_sets_per_second": {s: 1 / t for s, t in trained.items()},
                "exponent": slope,
            }
        )
    if options.json:
        about = {"torch": torch.__version__, "python": platform.python_version(), **vars(options)}
        print(json.dumps({"settings": about, "results": rows}))
        return
    print(f"sets a second on {device.type}, {torch.get_num_threads()} threads, {FEATURES} features, codes of {CODE}")
    for key, title in (("sets_per_second", "encoder"), ("trained_sets_per_second", "training")):
        if key.startswith("trained") and not options.train:
            continue
        print(f"{title:16s}" + "".join(f"{f'm = {s}':>12s}" for s in options.sizes) + f"{'exponent':>10s}")
        for r in rows:
            cells = "".join(f"{r[key][s]:12,.1f}" if s in r[key] else f"{'-':>12s}" for s in options.sizes)
            tail = f"{r['exponent']:10.2f}" if key == "sets_per_second" else ""
            print(f"{r['encoder']:16s}{cells}{tail}")


if __name__ == "__main__":
    main()
