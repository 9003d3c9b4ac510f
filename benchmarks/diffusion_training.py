"""Cost of training a diffusion transformer through ``train_diffusion`` against a loop written by hand, in one run.

The model is the same (class-conditional, over 16 x 16 images, linear path, velocity), and so are the optimizer (AdamW
with the fused kernel), the clipping of the gradient, the average of the weights, the share of dropped labels and the
data. The loop by hand is the shortest that does this: no history, no check of the loss, no bar. ``plain`` rows leave
clipping and averaging out on both sides; ``taps`` adds an alignment term on the features of one block.

Every repetition trains anew each way, in turn and from the same weights; the ratio is taken within a repetition, so
slow moments of the machine meet both sides. Reported are the median ratio and the smallest and largest.

On a machine that is busy with other work, ``--clock cpu`` counts processor time instead of wall time.

    python benchmarks/diffusion_training.py [--steps 60] [--repetitions 9] [--clock wall|cpu] [--json]
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
from holdfast.diffusion import Denoiser, DiT, LinearPath, Term, TermContext, train_diffusion

SIDE, CLASSES, ROWS, TAP, FEATURES = 16, 10, 2048, 3, 32


def model() -> Denoiser:
    """Return the model with the same weights each time."""
    with isolated_rng(100):
        return Denoiser(DiT(1, SIDE, patch=4, width=64, depth=6, heads=4, num_classes=CLASSES), LinearPath())


class Projected(Term):
    """Negative cosine between projected tokens of one block and given features."""

    def __init__(self) -> None:
        super().__init__("alignment", 0.5, taps=(TAP,))
        with isolated_rng(101):
            self.head = nn.Linear(64, FEATURES)

    def forward(self, ctx: TermContext) -> Tensor:
        return -F.cosine_similarity(self.head(ctx.output.taps[TAP]), ctx.extra["features"], dim=-1).mean()


def ours(x: Tensor, y: Tensor, features: Tensor, steps: int, batch: int, whole: bool, taps: bool) -> Denoiser:
    """Train through the package."""
    denoiser = model()
    train_diffusion(
        denoiser,
        x,
        y,
        steps=steps,
        batch_size=batch,
        lr=1e-3,
        ema=0.999 if whole else None,
        clip_norm=1.0 if whole else None,
        terms=[Projected()] if taps else [],
        extra={"features": features} if taps else None,
        device="cpu",
        seed=100,
    )
    return denoiser


def bare(x: Tensor, y: Tensor, features: Tensor, steps: int, batch: int, whole: bool, taps: bool) -> Denoiser:
    """Train by a loop that does what is needed and no more."""
    denoiser, rng, done = model(), generator(100), 0
    net, head = denoiser.network, Projected().head
    trained = [*net.parameters(), *(head.parameters() if taps else ())]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0, fused=True)
    weights = [p for p in net.parameters() if p.requires_grad]
    mean = [p.detach().clone() for p in weights] if whole else []
    net.train()
    while done < steps:
        for rows in torch.randperm(len(x), generator=rng).split(batch)[: steps - done]:
            x0, labels = x[rows], y[rows]
            t = torch.rand(len(x0), generator=rng)
            eps = torch.randn(x0.shape, generator=rng)
            labels = torch.where(torch.rand(len(labels), generator=rng) < 0.1, CLASSES, labels)
            at = t.view(-1, 1, 1, 1)
            out = net((1 - at) * x0 + at * eps, t, labels, taps=(TAP,) if taps else ())
            loss = F.mse_loss(out.pred, eps - x0)
            if taps:
                loss = loss - 0.5 * F.cosine_similarity(head(out.taps[TAP]), features[rows], dim=-1).mean()
            optimizer.zero_grad()
            loss.backward()
            if whole:
                nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            if whole:
                with torch.no_grad():
                    torch._foreach_lerp_(mean, weights, 1 - min(0.999, (2 + done) / (11 + done)))
            done += 1
    if whole:
        with torch.no_grad():
            for p, m in zip(weights, mean):
                p.copy_(m)
    return denoiser


@torch.no_grad()
def error(denoiser: Denoiser, x: Tensor, y: Tensor) -> float:
    """Return the velocity loss on fixed noise, the proof that both ways train."""
    rng = generator(102)
    t, eps = torch.rand(len(x), generator=rng), torch.randn(x.shape, generator=rng)
    denoiser.eval()
    return float(F.mse_loss(denoiser(denoiser.path.noise(x, eps, t), t, y).pred, eps - x))


Way = Callable[[Tensor, Tensor, Tensor, int, int, bool, bool], Denoiser]
SETTINGS: dict[str, tuple[bool, bool]] = {"plain": (False, False), "clip + ema": (True, False), "taps": (True, True)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    rng = generator(100)
    y = torch.randint(CLASSES, (ROWS,), generator=rng)
    shapes = torch.randn(CLASSES, 1, SIDE, SIDE, generator=rng)
    x = (0.5 * shapes[y] + 0.1 * torch.randn(ROWS, 1, SIDE, SIDE, generator=rng)).clamp(-1, 1)
    features = torch.randn(ROWS, 16, FEATURES, generator=rng)

    rows = []
    for name, (whole, taps) in SETTINGS.items():
        arguments = (x, y, features, options.steps, options.batch, whole, taps)
        ways: tuple[Way, Way] = (ours, bare)
        losses = [error(way(*arguments), x[:512], y[:512]) for way in ways]  # warm-up
        seconds: list[list[float]] = [[], []]
        for repetition in range(options.repetitions):
            for side in (0, 1) if repetition % 2 else (1, 0):
                begin = clock()
                ways[side](*arguments)
                seconds[side].append(clock() - begin)
        ratios = [a / b for a, b in zip(*seconds)]
        rows.append(
            {
                "setting": name,
                "milliseconds_per_step": statistics.median(seconds[0]) / options.steps * 1e3,
                "bare_milliseconds_per_step": statistics.median(seconds[1]) / options.steps * 1e3,
                "ratio": statistics.median(ratios),
                "low": min(ratios),
                "high": max(ratios),
                "loss": losses[0],
                "bare_loss": losses[1],
            }
        )
    if options.json:
        about = {"torch": torch.__version__, "python": platform.python_version(), **vars(options)}
        print(json.dumps({"settings": about, "results": rows}))
        return
    print(
        f"{options.steps} steps of batch {options.batch}, {options.repetitions} repetitions, {options.threads} "
        f"thread(s), {options.clock} time"
    )
    print(f"{'':12s} {'ours ms/step':>13s} {'bare ms/step':>13s}  {'ours takes (times as long)':>28s}  {'losses':>15s}")
    for row in rows:
        ratio = f"{row['ratio']:.3f}  [{row['low']:.3f}, {row['high']:.3f}]"
        print(
            f"{row['setting']:12s} {row['milliseconds_per_step']:13.2f} {row['bare_milliseconds_per_step']:13.2f}  "
            f"{ratio:>28s}  {row['loss']:7.3f} {row['bare_loss']:7.3f}"
        )


if __name__ == "__main__":
    main()
