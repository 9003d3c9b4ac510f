"""Sliced Wasserstein distance, Sinkhorn divergence and exact transport against POT and geomloss, at equal value.

Pairs of sets are Gaussians of 10 dimensions, in single precision, the second moved and turned. ``sliced`` sends both
sides along the same 100 lines, so that values agree to rounding; ``sinkhorn`` has the entropic weight of a twentieth
of the mean squared distance on both sides, and the value of ours at a tolerance of 1e-9 in double precision is the
reference for the error of each. geomloss anneals to the wanted weight and stops there, by ``scaling``: 0.5 is its
default, 0.9 its accurate setting. POT solves the three problems of a divergence pair by pair. ``exact`` is what our
function adds to ``ot.emd2``, which it calls. ``+ gradient`` rows have the gradient for one side as well.

Repetitions alternate between the sides; the ratio is taken within a repetition. Reported are the median ratio with the
smallest and largest, and the largest relative error of both.

    python benchmarks/transport.py [--sizes 256 1024] [--batches 1 32] [--repetitions 7] [--clock wall|cpu] [--json]

needs the packages ``POT`` and ``geomloss``; what is missing is left out.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from holdfast.core.random import generator
from holdfast.metrics import exact_transport, mean_squared_distance, sinkhorn_divergence, sliced_transport

DIM, LINES = 10, 100
Way = Callable[[Tensor, Tensor], Tensor]


def pairs(batch: int, n: int) -> tuple[Tensor, Tensor]:
    """Return two batches of sets."""
    rng = generator(100)
    x, y = torch.randn(2, batch, n, DIM, generator=rng)
    return x, 0.8 * y @ torch.linalg.qr(torch.randn(DIM, DIM, generator=rng)).Q + 0.5


def lines(like: Tensor) -> Tensor:
    """Return the lines both sides are sent along."""
    drawn = torch.randn(DIM, LINES, generator=generator(101))
    return (drawn / drawn.norm(dim=0)).to(like)


def weight(x: Tensor, y: Tensor) -> float:
    """Return one entropic weight for all pairs."""
    return 0.05 * float(mean_squared_distance(x.detach(), y).mean())


def our_sliced(x: Tensor, y: Tensor) -> Tensor:
    """Return squared sliced distances."""
    return sliced_transport(x, y, lines=lines(x))


def pot_sliced(x: Tensor, y: Tensor) -> Tensor:
    """Return the same by POT, set by set."""
    import ot

    along = lines(x)
    found = [ot.sliced.sliced_wasserstein_distance(u, v, projections=along) ** 2 for u, v in zip(x, y)]
    return torch.stack(found)


def our_sinkhorn(x: Tensor, y: Tensor) -> Tensor:
    """Return divergences at the tolerance by default."""
    return sinkhorn_divergence(x, y, eps=weight(x, y))


def geomloss_sinkhorn(scaling: float) -> Way:
    """Return divergences by geomloss, all pairs at once."""

    def run(x: Tensor, y: Tensor) -> Tensor:
        import geomloss

        blur = math.sqrt(weight(x, y) / 2)
        return 2 * geomloss.SamplesLoss("sinkhorn", p=2, blur=blur, scaling=scaling, backend="tensorized")(x, y)

    return run


def pot_sinkhorn(x: Tensor, y: Tensor) -> Tensor:
    """Return divergences by POT, pair by pair, in the logarithmic domain."""
    import ot

    eps = weight(x, y)

    def one(u: Tensor, v: Tensor) -> Tensor:
        cost = torch.cdist(u, v).square()
        a, b = (t.new_full((len(t),), 1 / len(t)) for t in (u, v))
        plan = ot.sinkhorn(a, b, cost, eps, method="sinkhorn_log", stopThr=1e-3)
        return (plan * cost).sum() + eps * torch.xlogy(plan, plan / torch.outer(a, b)).sum()

    return torch.stack([one(u, v) - (one(u, u) + one(v, v)) / 2 for u, v in zip(x, y)])


def pot_exact(x: Tensor, y: Tensor) -> Tensor:
    """Return squared distances by ``ot.emd2``."""
    import ot

    n, m = x.shape[1], y.shape[1]
    a, b = torch.full((n,), 1 / n), torch.full((m,), 1 / m)
    return torch.stack([ot.emd2(a, b, torch.cdist(u, v).square(), numItermax=10_000_000) for u, v in zip(x, y)])


def reference(kind: str, x: Tensor, y: Tensor) -> Tensor:
    """Return values in double precision."""
    x, y = x.double(), y.double()
    if kind == "sliced":
        return sliced_transport(x, y, lines=lines(x))
    if kind == "exact":
        return exact_transport(x, y)
    return sinkhorn_divergence(x, y, eps=weight(x.float(), y.float()), tolerance=1e-9, max_iterations=100_000)


def comparisons() -> list[tuple[str, str, Way, Way]]:
    """Return (kind, peer, ours, the peer's) of what is installed."""
    found: list[tuple[str, str, Way, Way]] = []
    if find_spec("ot"):
        found += [("sliced", "POT", our_sliced, pot_sliced), ("exact", "POT", exact_transport, pot_exact)]
    if find_spec("geomloss"):
        found += [
            ("sinkhorn", f"geomloss, scaling {s:g}", our_sinkhorn, geomloss_sinkhorn(s)) for s in (0.5, 0.9)
        ]  # fmt: skip
    if find_spec("ot"):
        found.append(("sinkhorn", "POT", our_sinkhorn, pot_sinkhorn))
    return found


def run(way: Way, x: Tensor, y: Tensor, gradient: bool) -> Tensor:
    """Evaluate, with the gradient for ``x`` where asked."""
    if not gradient:
        with torch.no_grad():
            return way(x, y)
    value = way(x.clone().requires_grad_(), y)
    value.sum().backward()
    return value.detach()


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return one row for every comparison, size, and use."""
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    jobs = [
        (kind, peer, ours, theirs, n, batch, gradient)
        for kind, peer, ours, theirs in comparisons()
        for n in options.sizes
        for batch in options.batches
        # POT's exact and entropic programmes take one pair at a time: a batch says nothing new.
        if batch == 1 or (peer != "POT" or kind == "sliced")
        for gradient in ((False, True) if kind == "sliced" or "geomloss" in peer else (False,))
    ]
    rows = []
    for kind, peer, ours, theirs, n, batch, gradient in track(jobs, "transport", console=Console(stderr=True)):
        x, y = pairs(batch, n)
        best = reference(kind, x, y)
        ways = (ours, theirs)
        errors = [float(((run(w, x, y, gradient).double() - best) / best).abs().max()) for w in ways]  # and warm-up
        seconds: list[list[float]] = [[], []]
        for repetition in range(options.repetitions):
            for side in (0, 1) if repetition % 2 else (1, 0):
                begin = clock()
                run(ways[side], x, y, gradient)
                seconds[side].append(clock() - begin)
        ratios = [b / a for a, b in zip(*seconds)]
        rows.append(
            {
                "what": kind + (" + gradient" if gradient else ""), "peer": peer, "points": n, "pairs": batch,
                "milliseconds": statistics.median(seconds[0]) * 1e3,
                "peer_milliseconds": statistics.median(seconds[1]) * 1e3,
                "times_as_fast": statistics.median(ratios), "low": min(ratios), "high": max(ratios),
                "error": errors[0], "peer_error": errors[1],
            }
        )  # fmt: skip
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", type=int, default=[256, 1024])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = measure(options)
    if options.json:
        about = {"torch": torch.__version__, "python": platform.python_version(), **vars(options)}
        print(json.dumps({"settings": about, "results": rows}))
        return
    head = f"{'':20s} {'against':22s} {'points':>6s} {'pairs':>5s} {'ours ms':>9s} {'theirs ms':>9s}"
    print(f"{head}  {'ours is (times as fast)':>24s}  {'errors':>17s}")
    for r in rows:
        ratio = f"{r['times_as_fast']:.2f}  [{r['low']:.2f}, {r['high']:.2f}]"
        print(
            f"{r['what']:20s} {r['peer']:22s} {r['points']:6d} {r['pairs']:5d} {r['milliseconds']:9.1f} "
            f"{r['peer_milliseconds']:9.1f}  {ratio:>24s}  {r['error']:8.0e} {r['peer_error']:8.0e}"
        )


if __name__ == "__main__":
    main()
