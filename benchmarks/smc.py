"""Particle filters against ``particles``, and chains over traces against Pyro, in one run.

Filters: log-evidence of a linear-Gaussian state-space model (known exactly, by the Kalman filter) from the bootstrap
filter with systematic resampling below half of the particles. The variance of the estimate falls as 1 / N and the time
grows as N, so seconds times variance is the price of a given variance, whatever N was run; the ratio of two prices is
the ratio of the times at equal variance. ``batched`` rows run all filters of a repetition in one call, which the peer
does not offer. The peer runs in an interpreter of its own (``--peer-python``), which is kept running: its compilation
and start are not counted. Repetitions alternate between the sides; reported are medians, and the price ratio with the
smallest and largest of the repetitions.

Chains: posterior of a linear regression with three coefficients; seconds per effective sample of the worst coefficient.
Ours proposes one coefficient at a time, Pyro's random-walk kernel all of them, and its NUTS uses gradients.

    python benchmarks/smc.py [--peer-python python] [--particles 1000 10000 100000] [--repetitions 5] [--json]

needs the packages ``particles`` (in the peer's interpreter) and ``pyro-ppl``; what is missing is left out.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from holdfast.core.random import generator, spawn_seed
from holdfast.inference import Normal, Sample, Score, mh, smc_state_space

A, Q, R = 0.9, 0.5, 0.7

PEER = """
import json, sys, time
import numpy as np, particles
from particles import distributions as dists, state_space_models as ssm

class Linear(ssm.StateSpaceModel):
    def PX0(self):
        return dists.Normal()
    def PX(self, t, xp):
        return dists.Normal(loc=%(A)r * xp, scale=%(Q)r)
    def PY(self, t, xp, x):
        return dists.Normal(loc=x, scale=%(R)r)

for line in sys.stdin:
    job = json.loads(line)
    np.random.seed(job["seed"])
    model = ssm.Bootstrap(ssm=Linear(), data=np.array(job["y"]))
    logz, begin = [], time.%(clock)s()
    for _ in range(job["runs"]):
        pf = particles.SMC(fk=model, N=job["n"], resampling="systematic", ESSrmin=0.5)
        pf.run()
        logz.append(float(pf.logLt))
    print(json.dumps({"seconds": time.%(clock)s() - begin, "logz": logz}), flush=True)
"""


class Peer:
    """The other library, in a process that waits for jobs."""

    def __init__(self, python: str, clock: str) -> None:
        code = PEER % {"A": A, "Q": Q, "R": R, "clock": clock}
        self.process = subprocess.Popen(
            [python, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def __call__(self, y: np.ndarray, n: int, runs: int, seed: int) -> tuple[float, np.ndarray]:
        """Run filters; return seconds and log-evidences."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        job = {"y": y.tolist(), "n": n, "runs": runs, "seed": seed}
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        found = json.loads(self.process.stdout.readline())
        return found["seconds"], np.array(found["logz"])


def ours(clock: Callable[[], float], dtype: torch.dtype, batched: bool) -> Callable[..., tuple[float, np.ndarray]]:
    """Return the runner of our filter."""

    def run(y: np.ndarray, n: int, runs: int, seed: int) -> tuple[float, np.ndarray]:
        rng, obs = generator(seed), torch.tensor(y, dtype=dtype)[None]
        noise = lambda shape: torch.randn(shape, generator=rng, dtype=dtype)  # noqa: E731
        model = (
            lambda b, n, g: noise((b, n)),
            lambda x, t, g: A * x + Q * noise(x.shape),
            lambda y, x, t: torch.distributions.Normal(x, R, validate_args=False).log_prob(y),
        )
        at_once = max(1, min(runs, 100_000 // n)) if batched else 1
        logz: list[torch.Tensor] = []
        begin = clock()
        for first in range(0, runs, at_once):
            batch = obs.expand(min(at_once, runs - first), -1)
            logz.append(smc_state_space(*model, batch, n, generator=rng, store=False).log_evidence)
        return clock() - begin, torch.cat(logz).numpy()

    return run


def kalman(y: np.ndarray) -> float:
    """Return the exact log-evidence."""
    m, v, out = 0.0, 1.0, 0.0
    for t, obs in enumerate(y):
        if t:
            m, v = A * m, A * A * v + Q * Q
        s = v + R * R
        out += -0.5 * ((obs - m) ** 2 / s + math.log(2 * math.pi * s))
        m, v = m + v / s * (obs - m), v * R * R / s
    return out


def filters(options: argparse.Namespace, clock: Callable[[], float], clock_name: str) -> list[dict[str, Any]]:
    """Time both sides at every number of particles."""
    rng = np.random.default_rng(options.seed)
    x, y = rng.normal(), np.empty(options.steps)
    for t in range(options.steps):
        x = A * x + Q * rng.normal() if t else x
        y[t] = x + R * rng.normal()
    sides: dict[str, Callable[..., tuple[float, np.ndarray]]] = {}
    has_peer = subprocess.run([options.peer_python, "-c", "import particles"], capture_output=True).returncode == 0
    if has_peer:
        sides["particles"] = Peer(options.peer_python, clock_name)
    for dtype, batched in ((torch.float64, False), (torch.float32, False), (torch.float32, True)):
        name = f"ours, {str(dtype)[6:]}{', batched' if batched else ''}"
        sides[name] = ours(clock, dtype, batched)
    rows = []
    for n in options.particles:
        runs = max(10, min(400, options.budget // (n * options.steps)))
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        logz: dict[str, list[np.ndarray]] = {name: [] for name in sides}
        for side in sides.values():
            side(y, n, 2, options.seed)  # warm-up
        for repetition in range(options.repetitions):
            for name in list(sides)[:: 1 if repetition % 2 else -1]:
                s, z = sides[name](y, n, runs, spawn_seed(options.seed, repetition, n))
                seconds[name].append(s / runs)
                logz[name].append(z - kalman(y))
        variance = {name: float(np.concatenate(z).var(ddof=1)) for name, z in logz.items()}
        for name in sides:
            row = {
                "particles": n,
                "side": name,
                "runs": runs * options.repetitions,
                "milliseconds": statistics.median(seconds[name]) * 1e3,
                "variance": variance[name],
                "mean_ratio": float(np.exp(np.concatenate(logz[name])).mean()),
            }
            if has_peer:
                price = variance[name] / variance["particles"]
                ratios = [price * a / b for a, b in zip(seconds[name], seconds["particles"])]
                row |= {"price_ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}
            rows.append(row)
    return rows


def effective(chain: np.ndarray) -> float:
    """Return the effective sample size of a chain, by Geyer's initial positive sequence."""
    x = chain - chain.mean()
    n = len(x)
    spectrum = np.abs(np.fft.rfft(x, 2 * n)) ** 2
    rho = np.fft.irfft(spectrum)[:n]
    rho = rho / rho[0]
    pairs = rho[: n // 2 * 2].reshape(-1, 2).sum(1)
    stop = int(np.argmax(pairs < 0)) if (pairs < 0).any() else len(pairs)
    return float(n / max(2 * pairs[:stop].sum() - 1, 1 / n))


def chains(options: argparse.Namespace, clock: Callable[[], float]) -> list[dict[str, Any]]:
    """Time chains over the coefficients of a regression."""
    rng = np.random.default_rng(options.seed)
    x = rng.normal(size=(50, 3))
    y = x @ np.array([1.0, -0.5, 0.25]) + 0.5 * rng.normal(size=50)
    names = ("a", "b", "c")
    precision = np.eye(3) + x.T @ x / 0.25
    exact = np.linalg.solve(precision, x.T @ y / 0.25)

    def model() -> Any:
        beta = []
        for name in names:
            beta.append((yield Sample(Normal(0, 1), name)))
        residual = y - x @ np.array(beta)
        yield Score(-0.5 * float(residual @ residual) / 0.25)
        return beta

    step = {name: lambda v: Normal(v, 0.15) for name in names}

    def trace_chain() -> np.ndarray:
        return np.array(mh(model, options.chain, options.chain // 10, rng=options.seed, proposals=step).values)

    contenders: dict[str, Callable[[], np.ndarray]] = {"ours, one site at a time": trace_chain}
    if find_spec("pyro") is not None:
        import pyro
        import pyro.distributions as dist
        from pyro.infer.mcmc import MCMC, NUTS, RandomWalkKernel

        tx, ty = torch.tensor(x), torch.tensor(y)

        def pyro_model() -> None:
            beta = torch.stack([pyro.sample(name, dist.Normal(tx.new_zeros(()), 1.0)) for name in names])
            pyro.sample("y", dist.Normal(tx @ beta, 0.5).to_event(1), obs=ty)

        def pyro_chain(kernel: Any, steps: int) -> np.ndarray:
            pyro.set_rng_seed(options.seed)
            run = MCMC(kernel, steps, warmup_steps=steps // 10, disable_progbar=True)
            run.run()
            return torch.stack([run.get_samples()[name] for name in names], -1).numpy()

        contenders["pyro, random walk"] = lambda: pyro_chain(RandomWalkKernel(pyro_model), options.chain)
        contenders["pyro, NUTS"] = lambda: pyro_chain(NUTS(pyro_model), max(200, options.chain // 10))
    rows = []
    for name, run in contenders.items():
        begin = clock()
        values = run()
        seconds = clock() - begin
        ess = min(effective(values[:, i]) for i in range(3))
        error = float(np.abs(values.mean(0) - exact).max() * math.sqrt(precision.diagonal().min()))
        rows.append(
            {
                "side": name,
                "steps": len(values),
                "seconds": seconds,
                "effective": ess,
                "milliseconds_per_effective": seconds / ess * 1e3,
                "largest_error_in_posterior_sd": error,
            }
        )
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has the package particles")
    parser.add_argument("--particles", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--steps", type=int, default=50, help="length of the sequence")
    parser.add_argument("--budget", type=int, default=20_000_000, help="particle-steps per repetition and side")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--chain", type=int, default=5000, help="steps of the chains")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock_name = "perf_counter" if options.clock == "wall" else "process_time"
    clock = getattr(time, clock_name)
    found, moved = filters(options, clock, clock_name), chains(options, clock)
    if options.json:
        print(json.dumps({"settings": vars(options), "filters": found, "chains": moved}))
        return
    print(f"filters of {options.steps} steps, {options.threads} thread(s), {options.clock} time")
    print(
        f"{'particles':>9} {'side':24} {'ms':>9} {'Var log Z':>10} {'mean Z/Z':>9}  time at equal variance, ours/peer"
    )
    for row in found:
        ratio = f"{row['price_ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}]" if "price_ratio" in row else "no peer"
        print(
            f"{row['particles']:9d} {row['side']:24} {row['milliseconds']:9.2f} {row['variance']:10.2e} "
            f"{row['mean_ratio']:9.4f}  {ratio}"
        )
    print(f"\n{'chain':26} {'steps':>6} {'seconds':>8} {'effective':>10} {'ms each':>8} {'error in sd':>12}")
    for row in moved:
        print(
            f"{row['side']:26} {row['steps']:6d} {row['seconds']:8.2f} {row['effective']:10.0f} "
            f"{row['milliseconds_per_effective']:8.2f} {row['largest_error_in_posterior_sd']:12.3f}"
        )


if __name__ == "__main__":
    main()
