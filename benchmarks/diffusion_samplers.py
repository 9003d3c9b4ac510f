"""Cost of our samplers against the schedulers of diffusers, with the same network, in one run.

The network is a small diffusion transformer over 16 x 16 images; ``--network none`` puts a map that costs nothing in
its place, so that only the samplers themselves are timed. Every repetition draws the same images both ways, in turn
and from the same noise; the ratio is taken within a repetition, so slow moments of the machine meet both sides.
Reported are the median ratio and the smallest and largest, and how far the two sides' images are apart.

On a machine that is busy with other work, ``--clock cpu`` counts processor time instead of wall time.

    python benchmarks/diffusion_samplers.py [--steps 50] [--repetitions 15] [--clock wall|cpu] [--network dit|none]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable

import diffusers
import torch
from torch import Tensor, nn

from holdfast.core.random import generator, isolated_rng
from holdfast.diffusion import DDPMSchedule, Denoiser, DiT, Output, ddim, edm_heun, time_grid
from holdfast.diffusion.samplers import ddpm

SIDE = 16
DIFFUSERS = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}


class Guess(nn.Module):
    """Takes the state itself for the noise, corrected by a network: images then stay of a size, untrained as it is."""

    def __init__(self, correction: nn.Module | None) -> None:
        super().__init__()
        self.correction = correction

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Output:
        return Output(x if self.correction is None else torch.add(x, self.correction(x, t).pred, alpha=0.3), {})


def network(kind: str) -> nn.Module:
    """Return the network, with an output head that is not zero."""
    if kind == "none":
        return Guess(None)
    with isolated_rng(100):
        net = DiT(1, SIDE, patch=4, width=64, depth=6, heads=4)
        for layer in net.modules():
            if isinstance(layer, nn.Linear) and not layer.weight.any():  # what starts at zero
                nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    return Guess(net).eval()


def pairs(net: nn.Module, x: Tensor, steps: int) -> dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]]:
    """Return for every sampler our way and theirs, each from noise to images."""
    path = DDPMSchedule(1000)
    model = Denoiser(net, path, "noise")
    grid = time_grid(path, steps, spacing="leading")

    def loop(scheduler: diffusers.SchedulerMixin, start: Tensor, **options: torch.Generator) -> Tensor:
        sample = start
        for t in scheduler.timesteps:
            seen = scheduler.scale_model_input(sample, t)
            noise = net(seen, t.to(seen.dtype).expand(len(x))).pred
            sample = scheduler.step(noise, t, sample, **options).prev_sample
        return sample

    @torch.no_grad()
    def their_ddpm() -> Tensor:
        scheduler = diffusers.DDPMScheduler(clip_sample=False, timestep_spacing="leading", **DIFFUSERS)
        scheduler.set_timesteps(steps)
        return loop(scheduler, x, generator=generator(101))

    @torch.no_grad()
    def their_ddim() -> Tensor:
        scheduler = diffusers.DDIMScheduler(clip_sample=False, timestep_spacing="leading", **DIFFUSERS)
        scheduler.set_timesteps(steps)
        return loop(scheduler, x)

    def heun_scheduler() -> diffusers.HeunDiscreteScheduler:
        scheduler = diffusers.HeunDiscreteScheduler(use_karras_sigmas=True, **DIFFUSERS)
        scheduler.set_timesteps(steps)
        return scheduler

    @torch.no_grad()
    def their_heun() -> Tensor:
        scheduler = heun_scheduler()
        return loop(scheduler, x * scheduler.init_noise_sigma)

    sigmas = heun_scheduler().sigmas
    low, high = float(sigmas[-2]), float(sigmas[0])
    start = x * heun_scheduler().init_noise_sigma / (1 + high**2) ** 0.5
    return {
        "DDPM": (lambda: ddpm(model, x, steps=grid, generator=generator(101)).x, their_ddpm),
        "DDIM": (lambda: ddim(model, x, steps=grid).x, their_ddim),
        "Heun": (lambda: edm_heun(model, start, steps=steps, sigma_min=low, sigma_max=high).x, their_heun),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--network", choices=["dit", "none"], default="dit")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    x = torch.randn(options.batch, 1, SIDE, SIDE, generator=generator(100))
    rows = []
    for name, ways in pairs(network(options.network), x, options.steps).items():
        ours, theirs = (way() for way in ways)  # warm-up, and the proof that both draw the same images
        seconds: list[list[float]] = [[], []]
        for repetition in range(options.repetitions):
            for side in (0, 1) if repetition % 2 else (1, 0):
                begin = clock()
                ways[side]()
                seconds[side].append(clock() - begin)
        ratios = [a / b for a, b in zip(*seconds)]
        rows.append(
            {
                "sampler": name,
                "milliseconds": statistics.median(seconds[0]) * 1e3,
                "diffusers_milliseconds": statistics.median(seconds[1]) * 1e3,
                "ratio": statistics.median(ratios),
                "low": min(ratios),
                "high": max(ratios),
                "relative_difference": float((ours - theirs).norm() / theirs.norm()),
            }
        )
    about = {
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "python": platform.python_version(),
        **vars(options),
    }
    if options.json:
        print(json.dumps({"settings": about, "results": rows}))
        return
    print(
        f"{options.steps} steps of {options.batch} images, network {options.network}, {options.repetitions} "
        f"repetitions, {options.threads} thread(s), {options.clock} time, diffusers {diffusers.__version__}"
    )
    print(f"{'':6s} {'ours ms':>9s} {'diffusers ms':>13s}  {'ours takes (times as long)':>28s}  {'images differ':>13s}")
    for row in rows:
        ratio = f"{row['ratio']:.3f}  [{row['low']:.3f}, {row['high']:.3f}]"
        print(
            f"{row['sampler']:6s} {row['milliseconds']:9.1f} {row['diffusers_milliseconds']:13.1f}  {ratio:>28s}  "
            f"{row['relative_difference']:13.1e}"
        )


if __name__ == "__main__":
    main()
