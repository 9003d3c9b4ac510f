"""Zheng et al., "Masked Diffusion Models are Secretly Time-Agnostic Masked Models ...", ICLR 2025."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from holdfast.core.batching import Batches, BatchPlan
from holdfast.core.random import generator, isolated_rng, spawn_seed
from holdfast.core.training import train
from holdfast.diffusion.backbones.token_transformer import TokenTransformer
from holdfast.diffusion.gumbel_truncation import gumbel_ceiling
from holdfast.diffusion.masked import (
    AncestralMaskedSampler,
    ConfidenceSampler,
    FirstHittingSampler,
    NelboMode,
    TwoStageMaskedSampler,
    masked_nelbo,
    truncated_ancestral_law,
)
from holdfast.diffusion.oracles.markov_chain import ExactChainDenoiser, MarkovChain
from holdfast.metrics.ngrams import NGramModel
from holdfast.metrics.tokens import generative_perplexity, token_entropy
from holdfast.papers.catalogue import describe
from holdfast.papers.record import Claim, Scale, Values

__all__ = ["PAPER"]

_STEPS = (64, 256, 1024, 4096)
"""Numbers of ancestral steps over which the float32 bias is followed."""

_CHAIN = MarkovChain.sticky(8, 0.8)


@dataclass(frozen=True)
class _Size:
    """How much is drawn and trained."""

    sequences: int
    length: int
    ancestral_steps: int
    cost: tuple[int, int, int]
    """Length, vocabulary and ancestral steps of the comparison of costs."""
    zipf: int
    drawn: tuple[int, int, int]
    """Vocabulary, steps and positions of the real float32 draws."""
    steps: int
    train_length: int
    valid: int


_SMOKE = _Size(2000, 8, 32, (64, 64, 64), 256, (64, 64, 512), 10, 8, 128)
_SMALL = _Size(20_000, 24, 1024, (256, 1024, 1024), 8192, (1024, 1024, 4096), 700, 16, 4096)


def _zipf(vocab: int) -> Tensor:
    pi = 1 / torch.arange(1, vocab + 1, dtype=torch.float64)
    return pi / pi.sum()


def _entropy(p: Tensor) -> float:
    return float(torch.special.entr(p).sum())


def _exactness(s: _Size, seed: int) -> dict[str, float]:
    """Samples of the exact denoiser against the chain: pairs of neighbours, pooled over places."""
    oracle = ExactChainDenoiser(_CHAIN, length=s.length)
    v, truth = _CHAIN.vocab, _CHAIN.bigrams(s.length)
    few = s.length // 4
    samplers: dict[str, Any] = {
        "fhs": FirstHittingSampler(),
        "fhs-half": FirstHittingSampler(s.length // 2),
        "fhs-quarter": FirstHittingSampler(few),
        "fhs-quarter-extrapolated": FirstHittingSampler(few, order=2),
        "fhs-quarter-corrected": FirstHittingSampler(few, corrector=True),
        "confidence-quarter": ConfidenceSampler(few),
        "independent": FirstHittingSampler(1),
        "ancestral": TwoStageMaskedSampler(s.ancestral_steps),
    }
    out: dict[str, float] = {}
    for name in ("chain", *samplers):
        rng = generator(spawn_seed(seed, "samples", name))
        if name == "chain":
            x = _CHAIN.sample(s.sequences, s.length, rng)
        else:
            samples = samplers[name].sample(oracle, s.sequences, s.length, v, rng)
            x, out[f"{name}/calls"] = samples.x, samples.calls
        code = v * x[:, :-1] + x[:, 1:]
        pooled = torch.bincount(code.flatten(), minlength=v * v).view(v, v) / code.numel()
        out[f"{name}/tv"] = float((pooled - truth).abs().sum()) / 2
        # Pairs of one sequence depend on each other: the test takes one from each, at a place drawn for it.
        place = torch.randint(s.length - 1, (len(x), 1), generator=rng)
        counts = torch.bincount(code.gather(1, place)[:, 0], minlength=v * v).double()
        expected = truth.flatten() * len(x)
        out[f"{name}/chi2_p"] = float(stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue)
    return out


def _cost(s: _Size, seed: int) -> dict[str, float]:
    """What a sequence costs beside the network, which here only looks its answer up."""
    length, vocab, steps = s.cost
    logits = torch.randn(1, length, vocab, generator=generator(spawn_seed(seed, "logits")))

    def lookup(tokens: Tensor, t: Tensor | None = None) -> Tensor:
        return logits.expand(len(tokens), -1, -1)

    out: dict[str, float] = {}
    for name, sampler, runs in (
        ("fhs", FirstHittingSampler(), 5),
        ("ancestral", AncestralMaskedSampler(steps), 1),
        ("two-stage", TwoStageMaskedSampler(steps), 5),
    ):
        seconds = []
        for run in range(runs):
            start = time.perf_counter()
            samples = sampler.sample(lookup, 1, length, vocab, generator(spawn_seed(seed, "cost", run)))
            seconds.append(time.perf_counter() - start)
        out |= {f"{name}/cost_calls": samples.calls, f"{name}/cost_draws": samples.draws}
        out[f"{name}/cost_seconds"] = float(np.median(seconds))
    return out


@cache
def _exact_bias(vocab: int) -> dict[str, float]:
    """Entropy of a Zipf token after ancestral sampling, by the exact truncated law of every step."""
    pi = _zipf(vocab)
    out = {"model/entropy": _entropy(pi)}
    for n in _STEPS:
        out[f"float32/entropy@{n}"] = _entropy(truncated_ancestral_law(pi, n, gumbel_ceiling(torch.float32)))
    out["float64/entropy@1024"] = _entropy(truncated_ancestral_law(pi, 1024, gumbel_ceiling(torch.float64)))
    return out


def _drawn_bias(s: _Size, seed: int) -> dict[str, float]:
    """The same with real draws: frequencies against the exact law, and the entropy of what came out."""
    vocab, steps, n = s.drawn
    pi = _zipf(vocab)
    logits = pi.log().float()

    def model(tokens: Tensor, t: Tensor | None = None) -> Tensor:
        return logits.expand(*tokens.shape, -1)

    def frequencies(sampler: Any, *keys: int | str) -> Tensor:
        x = sampler.sample(model, n, 1, vocab, generator(spawn_seed(seed, "draws", *keys))).x
        return torch.bincount(x[:, 0], minlength=vocab) / n

    coarse = frequencies(AncestralMaskedSampler(steps, draw_dtype=torch.float32), "float32")
    law = truncated_ancestral_law(pi, steps, gumbel_ceiling(torch.float32))
    z = (coarse - law) / (law * (1 - law) / n).sqrt()
    # The float64 law is that of coins and categories, which are cheap: several draws of the same size.
    fine = [_entropy(frequencies(TwoStageMaskedSampler(steps), "float64", i).double()) for i in range(4)]
    return {
        "float32/largest_z": float(z[:20].abs().max()),
        "float32/entropy_drawn": _entropy(coarse.double()),
        "float64/entropy_drawn": float(np.mean(fine)),
        "float32/entropy_of_law": _entropy(law),
        "float64/entropy_of_law": _entropy(pi),
    }


def _network(vocab: int, length: int, width: int, depth: int, heads: int, timed: bool, seed: int) -> TokenTransformer:
    with isolated_rng(spawn_seed(seed, "weights")):
        return TokenTransformer(vocab, length, width, depth, heads, time_input=timed, rope=True)


def _fit(
    net: TokenTransformer, x: Tensor, mode: NelboMode, steps: int, batch: int, lr: float, seed: int, device: str
) -> None:
    length = x.shape[1]

    def loss(net: Any, batch: Tensor, info: Any) -> Tensor:
        return masked_nelbo(net, batch, net.mask_id, mode, generator=info.generator).mean() / length

    train(
        net,
        loss,
        Batches(BatchPlan(len(x), batch, seed=spawn_seed(seed, "order")), lambda rows: x[rows]),
        steps=steps,
        lr=lr,
        schedule="cosine",
        warmup=0.05,
        clip_norm=1.0,
        device=device,
        precision="bf16-mixed" if device == "cuda" else "32-true",
        seed=spawn_seed(seed, "steps"),
    )


def _training(s: _Size, seed: int) -> dict[str, float]:
    """The bound per token after three ways of training, above the oracle's on the same masks of the same sequences."""
    length, v = s.train_length, _CHAIN.vocab
    x = _CHAIN.sample(20_000, length, generator(spawn_seed(seed, "train")))
    valid = _CHAIN.sample(s.valid, length, generator(spawn_seed(seed, "valid")))
    oracle = ExactChainDenoiser(_CHAIN, length=length)

    @torch.no_grad()
    def bounds(model: Any) -> Tensor:
        parts = [
            masked_nelbo(model, part, v, "count", generator=generator(spawn_seed(seed, "masks", i, k)))
            for k in range(2)
            for i, part in enumerate(valid.split(1024))
        ]
        return torch.cat(parts).double() / length

    floor = bounds(oracle)
    out = {"oracle/nelbo": float(floor.mean()), "chain/entropy": _CHAIN.entropy(length) / length}
    out["uniform/excess"] = float(np.log(v)) - out["chain/entropy"]
    modes: tuple[tuple[str, bool, NelboMode], ...] = (
        ("timed", True, "continuous"),
        ("time-free", False, "continuous"),
        ("time-free-count", False, "count"),
    )
    for name, timed, mode in modes:
        net = _network(v, length, 64, 2, 4, timed, spawn_seed(seed, timed))
        if name == "time-free":
            out["untrained/excess"] = float((bounds(net) - floor).mean())
        # One order of the sequences for all: what differs is the loss and the input, not the luck.
        _fit(net, x, mode, s.steps, 64, 3e-3, spawn_seed(seed, "fit"), "cpu")
        out[f"{name}/excess"] = float((bounds(net) - floor).mean())
    return out


def _shakespeare(
    seed: int,
    *,
    width: int = 384,
    depth: int = 6,
    steps: int = 10_000,
    batch: int = 64,
    n: int = 64,
    ancestral: tuple[int, ...] = (256, 1024, 4096),
    length: int = 256,
) -> dict[str, float]:
    """Characters of plays: what each sampler costs, how diverse and how plausible its text is."""
    from holdfast.papers._shakespeare import characters

    x, held_out, alphabet = characters(length)
    vocab = len(alphabet)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    reference = NGramModel(x, vocab, order=5)
    net = _network(vocab, length, width, depth, 6, False, seed)
    out: dict[str, float] = {}

    def judge(name: str, tokens: Tensor) -> None:
        out[f"plays-{name}/entropy"] = token_entropy(tokens)
        out[f"plays-{name}/perplexity"] = generative_perplexity(reference, tokens.cpu())

    judge("held-out", held_out[:n])
    shuffled = held_out.flatten()[torch.randperm(held_out.numel(), generator=generator(spawn_seed(seed, "shuffle")))]
    judge("shuffled", shuffled.view_as(held_out)[:n])
    untrained = FirstHittingSampler(length // 8).sample(net, n, length, vocab, generator(spawn_seed(seed, "untrained")))
    judge("untrained", untrained.x)
    _fit(net, x, "count", steps, batch, 1e-3, spawn_seed(seed, "plays"), device)
    samplers: dict[str, Any] = {"fhs": FirstHittingSampler(), "fhs-quarter": FirstHittingSampler(length // 4)}
    samplers["confidence-quarter"] = ConfidenceSampler(length // 4)
    for k in ancestral:
        for dtype in (torch.float64, torch.float32):
            samplers[f"ancestral@{k}-{str(dtype)[6:]}"] = AncestralMaskedSampler(k, draw_dtype=dtype)
    for name, sampler in samplers.items():
        rng = generator(spawn_seed(seed, "plays", name), device)
        start = time.perf_counter()
        samples = sampler.sample(net, n, length, vocab, rng)
        tokens = samples.x.cpu()
        out[f"plays-{name}/seconds"] = time.perf_counter() - start
        out[f"plays-{name}/calls"], out[f"plays-{name}/draws"] = samples.calls, samples.draws
        judge(name, tokens)
    return out


def _experiment(scale: Scale, seed: int) -> dict[str, float]:
    s = _SMOKE if scale == "smoke" else _SMALL
    out = _exactness(s, seed) | _cost(s, seed) | _exact_bias(s.zipf) | _drawn_bias(s, seed) | _training(s, seed)
    return out | _shakespeare(spawn_seed(seed, "plays")) if scale == "gpu" else out


def _ratio(a: str, b: str) -> Callable[[Values], float]:
    return lambda v: v[a] / v[b]


def _gap(a: str, b: str) -> Callable[[Values], float]:
    return lambda v: v[a] - v[b]


def _excesses(v: Values) -> list[float]:
    return [v[f"{name}/excess"] for name in ("timed", "time-free", "time-free-count")]


def _least_fall(v: Values) -> float:
    entropies = [v["model/entropy"], *(v[f"float32/entropy@{n}"] for n in _STEPS)]
    return min(a - b for a, b in pairwise(entropies))


PAPER = describe(
    49,
    experiment=_experiment,
    seeds=5,
    claims=(
        Claim(
            "exact-law",
            "pairs of neighbours of first-hitting samples are not told from the chain's by a chi-square test",
            lambda v: v["fhs/chi2_p"],
            at_least=0.001,
        ),
        Claim(
            "exact-distance",
            "their pooled law is within 0.01 in total variation",
            lambda v: v["fhs/tv"],
            at_most=0.01,
        ),
        Claim(
            "groups-cost-accuracy",
            "a quarter of the calls at least doubles that distance",
            _ratio("fhs-quarter/tv", "fhs/tv"),
            at_least=2.0,
        ),
        Claim(
            "draws",
            "the cached ancestral sampler makes 20 times as many categorical draws",
            _ratio("ancestral/cost_draws", "fhs/cost_draws"),
            at_least=20.0,
        ),
        Claim(
            "seconds",
            "and takes 5 times as long with a network that costs nothing",
            _ratio("ancestral/cost_seconds", "fhs/cost_seconds"),
            at_least=5.0,
        ),
        Claim(
            "float32-entropy",
            "float32 draws over 1,024 steps lower the entropy of a Zipf token by 0.4 nats, by the exact law",
            _gap("model/entropy", "float32/entropy@1024"),
            at_least=0.4,
        ),
        Claim(
            "float64-entropy",
            "float64 draws lower it by at most 0.001",
            _gap("model/entropy", "float64/entropy@1024"),
            at_most=0.001,
        ),
        Claim(
            "float32-monotone",
            "in float32 it falls with every fourfold number of steps from 64 to 4,096",
            _least_fall,
            at_least=0.0,
        ),
        Claim(
            "float32-frequencies",
            "real float32 draws give the 20 most probable tokens the frequencies of the exact law, within 3 standard "
            "errors",
            lambda v: v["float32/largest_z"],
            at_most=3.0,
        ),
        Claim(
            "float32-drawn",
            "and an entropy lower by 0.04 than that of float64 draws",
            _gap("float64/entropy_drawn", "float32/entropy_drawn"),
            at_least=0.04,
            null=0.0,
        ),
        Claim(
            "time-free",
            "training with and without time, and over the number of hidden tokens, end within 0.02 nats per token of "
            "each other",
            lambda v: max(abs(a - b) for a, b in combinations(_excesses(v), 2)),
            at_most=0.02,
        ),
        Claim(
            "time-free-bound",
            "all three within 0.05 of the entropy of the chain",
            lambda v: max(_excesses(v)),
            at_most=0.05,
        ),
    ),
)
