"""First-hitting against cached ancestral sampling of masked diffusion, at the size of a GPT-2 text model.

Speed: one sequence of 1,024 tokens over a vocabulary of 50,257, from an untrained network of one narrow block or
(--network table) a table that costs nothing to look up. The ancestral sampler draws from 50,258 categories for every
hidden token of every step; its network output is kept until a token changes. The two-stage sampler has the same law
with a coin per token and a category only where it came up. Every contender makes whole runs, in turn within each
repetition, on the same number of threads; medians over repetitions are printed.

Law: on the exact denoiser of a Markov chain each is compared with the chain, by pairs of neighbours over all places
(total variation) and by a chi-square test of one pair per sequence. The joint draw is run there at the fewest steps
only; its law is that of the two-stage draw.

    python benchmarks/first_hitting.py [--steps 64 1024] [--repetitions 3] [--threads 1] [--network tiny] [--json]
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from holdfast.core.random import generator, isolated_rng, spawn_seed
from holdfast.diffusion.backbones.token_transformer import TokenTransformer
from holdfast.diffusion.masked import AncestralMaskedSampler, FirstHittingSampler, TwoStageMaskedSampler, expected_nfe
from holdfast.diffusion.oracles.markov_chain import ExactChainDenoiser, MarkovChain


def network(kind: str, length: int, vocab: int, seed: int) -> Callable[..., Tensor]:
    """Return an untrained one-block transformer, or a table of random logits."""
    if kind == "tiny":
        with isolated_rng(seed):
            return TokenTransformer(vocab, length, width=64, depth=1, heads=2).eval()
    logits = torch.randn(1, length, vocab, generator=generator(seed))
    return lambda tokens, t=None: logits.expand(len(tokens), -1, -1)


@dataclass
class Contender:
    """One sampler: how long its runs took, and what the last one made."""

    name: str
    sampler: Any
    seconds: list[float] = field(default_factory=list)
    calls: int = 0
    draws: int = 0


def contenders(steps: list[int], single: bool) -> list[Contender]:
    """First hitting first; every other is measured against it."""
    out = [Contender("first hitting", FirstHittingSampler())]
    for n in steps:
        out.append(Contender(f"ancestral, {n} steps, float64", AncestralMaskedSampler(n)))
        if single:
            coarse = AncestralMaskedSampler(n, draw_dtype=torch.float32)
            out.append(Contender(f"ancestral, {n} steps, float32", coarse))
        out.append(Contender(f"two-stage, {n} steps", TwoStageMaskedSampler(n)))
    return out


def law(sampler: Any, n: int, length: int, seed: int) -> tuple[float, float]:
    """Return total variation of pooled pairs from the chain's, and the chi-square p-value of a pair per sequence."""
    chain = MarkovChain.sticky(8, 0.8)
    v, rng = chain.vocab, generator(seed)
    if sampler is None:
        x = chain.sample(n, length, rng)
    else:
        x = sampler.sample(ExactChainDenoiser(chain, length=length), n, length, v, rng).x
    truth, code = chain.bigrams(length), v * x[:, :-1] + x[:, 1:]
    pooled = torch.bincount(code.flatten(), minlength=v * v).view(v, v) / code.numel()
    place = torch.randint(length - 1, (n, 1), generator=rng)
    counts = torch.bincount(code.gather(1, place)[:, 0], minlength=v * v).double()
    expected = truth.flatten() * n
    p = stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue
    return float((pooled - truth).abs().sum()) / 2, float(p)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--vocab", type=int, default=50_257)
    parser.add_argument("--steps", type=int, nargs="+", default=[64], help="ancestral steps; 1024 takes minutes a run")
    parser.add_argument("--network", choices=["tiny", "table"], default="tiny")
    parser.add_argument("--float32", action="store_true", help="also the biased float32 draws")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--sequences", type=int, default=20_000, help="of the comparison of laws")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    model = network(args.network, args.length, args.vocab, args.seed)
    field_ = contenders(args.steps, args.float32)
    FirstHittingSampler(8).sample(model, 1, args.length, args.vocab, generator(args.seed))
    for repetition in range(args.repetitions):
        for c in field_:
            rng = generator(spawn_seed(args.seed, repetition))
            start = time.perf_counter()
            samples = c.sampler.sample(model, 1, args.length, args.vocab, rng)
            c.seconds.append(time.perf_counter() - start)
            c.calls, c.draws = samples.calls, samples.draws
    base = field_[0].seconds
    speed = []
    for c in field_:
        ratios = np.array(c.seconds) / np.array(base)
        speed.append(
            {
                "sampler": c.name,
                "seconds_median": float(np.median(c.seconds)),
                "times_first_hitting_median": float(np.median(ratios)),
                "times_first_hitting_range": [float(ratios.min()), float(ratios.max())],
                "network_calls": c.calls,
                "draws": c.draws,
            }
        )
    compared: list[tuple[str, Any]] = [("the chain itself", None), ("first hitting", FirstHittingSampler())]
    compared.append((f"ancestral, {min(args.steps)} steps", AncestralMaskedSampler(min(args.steps))))
    compared += [(f"two-stage, {n} steps", TwoStageMaskedSampler(n)) for n in sorted({*args.steps, 1024})]
    compared.append(("first hitting, 6 calls", FirstHittingSampler(6)))
    laws = []
    for name, sampler in compared:
        distance, p = law(sampler, args.sequences, 24, spawn_seed(args.seed, "law", name))
        laws.append({"sampler": name, "total_variation": distance, "chi2_p": p})
    report = {
        "length": args.length,
        "vocab": args.vocab,
        "network": args.network,
        "expected_ancestral_calls": {n: expected_nfe(n, args.length) for n in args.steps},
        "threads": args.threads,
        "repetitions": args.repetitions,
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "speed": speed,
        "law": laws,
    }
    if args.json:
        print(json.dumps(report, indent=1))
        return
    print(
        f"one sequence of {args.length} tokens over {args.vocab}, network: {args.network}, {args.threads} thread(s), "
        f"{args.repetitions} interleaved repetition(s)"
    )
    print(f"{'sampler':32} {'seconds':>9} {'x first hitting':>16} {'range':>15} {'calls':>6} {'draws':>9}")
    for r in speed:
        low, high = r["times_first_hitting_range"]
        print(
            f"{r['sampler']:32} {r['seconds_median']:9.2f} {r['times_first_hitting_median']:16.1f} "
            f"{low:6.1f} - {high:6.1f} {r['network_calls']:6d} {r['draws']:9d}"
        )
    print(f"\n{args.sequences} sequences of 24 tokens of a chain over 8, exact denoiser: pairs of neighbours")
    print(f"{'sampler':32} {'total variation':>16} {'chi-square p':>13}")
    for r in laws:
        print(f"{r['sampler']:32} {r['total_variation']:16.4f} {r['chi2_p']:13.3g}")


if __name__ == "__main__":
    main()
