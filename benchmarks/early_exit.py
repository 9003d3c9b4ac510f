"""Features of a diffusion network with early exit against a full pass that is tapped at the same block.

The network is the one of ablated diffusion models in small (three levels, attention at the lowest two), with random
weights, or a diffusion transformer. For every block in turn the same images are noised and read once with
``stop_at=block`` and once with a full pass, in turn within each repetition. Printed are the median times, the median
ratio with its range, the share of the network's layers that ran, and the largest difference of the features.

    python benchmarks/early_exit.py [--network unet|dit] [--repetitions 9] [--images 64] [--clock wall|cpu] [--json]
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

from holdfast.core.random import generator, isolated_rng
from holdfast.diffusion import DDPMSchedule, Denoiser, DiT, UNet, wake_zero_layers


def make_network(kind: str, size: int) -> nn.Module:
    """Return the network with no layer that is zero."""
    with isolated_rng(100):
        if kind == "unet":
            net: nn.Module = UNet(3, size, 32, (1, 2, 2), 2, (size // 2, size // 4))
        else:
            net = DiT(3, size, patch=size // 8, width=192, depth=12, heads=3)
    wake_zero_layers(net, generator(100))
    return net.eval()


def layers_run(run: Callable[[], object], net: nn.Module) -> int:
    """Count the calls of layers with weights."""
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    layers = [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    hooks = [m.register_forward_hook(count) for m in layers]
    run()
    for hook in hooks:
        hook.remove()
    return calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=["unet", "dit"], default="unet")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    clock = time.perf_counter if args.clock == "wall" else time.process_time

    model = Denoiser(make_network(args.network, args.size), DDPMSchedule(), "noise").to(args.device)
    net = model.network
    depth: int = net.depth  # pyright: ignore[reportAssignmentType]
    rng = generator(101)
    x0 = torch.rand(args.images, 3, args.size, args.size, generator=rng) * 2 - 1
    t = torch.full((args.images,), 90.0)
    x_t = model.path.noise(x0, torch.randn(x0.shape, generator=rng), t).to(args.device)
    t = t.to(args.device)

    def read(block: int, early: bool) -> Tensor:
        with torch.no_grad():
            return model(x_t, t, taps=(block,), stop_at=block if early else None).taps[block]

    def timed(block: int, early: bool) -> float:
        start = clock()
        read(block, early)
        if args.device != "cpu":
            torch.cuda.synchronize()
        return clock() - start

    whole = layers_run(lambda: read(depth, False), net)
    rows = []
    for block in range(1, depth + 1):
        timed(block, True), timed(block, False)
        pairs = [(timed(block, True), timed(block, False)) for _ in range(args.repetitions)]
        ratios = sorted(full / early for early, full in pairs)
        rows.append(
            {
                "block": block,
                "early_ms": 1000 * statistics.median(p[0] for p in pairs),
                "full_ms": 1000 * statistics.median(p[1] for p in pairs),
                "speedup": statistics.median(ratios),
                "range": [ratios[0], ratios[-1]],
                "layers": layers_run(lambda b=block: read(b, True), net) / whole,
                "difference": float((read(block, True) - read(block, False)).abs().max()),
            }
        )
    if args.json:
        about = {"torch": torch.__version__, "machine": platform.processor() or platform.machine()}
        print(json.dumps(vars(args) | about | {"rows": rows}, indent=1))
        return
    if args.network == "unet":
        print(net.table())  # pyright: ignore[reportCallIssue]
    print(
        f"{args.network}, {args.images} images of {args.size} x {args.size}, {args.threads} thread(s), {args.device}, "
        f"{args.clock} clock, {args.repetitions} interleaved repetitions"
    )
    print(f"{'block':>5} {'early ms':>9} {'full ms':>9} {'speed-up':>9} {'range':>13} {'layers':>7} {'difference':>11}")
    for r in rows:
        print(
            f"{r['block']:5} {r['early_ms']:9.1f} {r['full_ms']:9.1f} {r['speedup']:8.2f}x "
            f"{r['range'][0]:5.2f} - {r['range'][1]:5.2f} {r['layers']:7.0%} {r['difference']:11.1e}"
        )


if __name__ == "__main__":
    main()
