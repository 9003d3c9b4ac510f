"""Wang et al., "Binary Latent Diffusion", CVPR 2023."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from holdfast.core.random import generator, isolated_rng, spawn_seed
from holdfast.diffusion.autoencoder import (
    BernoulliCode,
    Bottleneck,
    ConvAutoencoder,
    GaussianKL,
    ReconstructionLoss,
    bit_entropy,
    train_autoencoder,
)
from holdfast.diffusion.autoencoder.vector_quantizer import VectorQuantizer, code_perplexity
from holdfast.diffusion.backbones.bit_transformer import BitTransformer
from holdfast.diffusion.binary import BinaryDiffusion, BinarySchedule, bit_probabilities, train_binary_diffusion
from holdfast.diffusion.binary.schedule import PosteriorKind
from holdfast.diffusion.ddpm import DDPMSchedule
from holdfast.diffusion.denoiser import Denoiser, Output
from holdfast.diffusion.draws import bernoulli
from holdfast.diffusion.objective import train_diffusion
from holdfast.diffusion.oracles.bits import ExactBitDenoiser, bit_states, sampler_law, total_variation
from holdfast.diffusion.samplers.ancestral import ddpm
from holdfast.papers._digit_images import digit_images, judge
from holdfast.papers._photographs import PhotoJudge, photographs
from holdfast.papers.catalogue import describe
from holdfast.papers.record import Claim, Scale, Values

__all__ = ["PAPER"]

_POSTERIORS: dict[PosteriorKind, str] = {"mixture": "mixture", "plug_in": "plug-in"}


@dataclass(frozen=True)
class _Setting:
    """Images in [-1, 1], the distance of samples to real ones, and the sizes of a scale."""

    x: Tensor
    other: Tensor
    distance: Callable[[Tensor], float]
    net: Mapping[str, Any]
    """Arguments of the autoencoders."""
    latent: int
    """Channels of the map at the bottleneck."""
    bits: int = 16
    """Bits per cell of the code that is modelled."""
    reconstruct: tuple[int, ...] = (16, 8)
    """Bits per cell of the codes whose reconstructions are compared."""
    code_steps: int = 600
    code_batch: int = 64
    steps: int = 2000
    batch: int = 32
    levels: int = 64
    """T, of the binary and of the Gaussian process."""
    network: Mapping[str, Any] = field(default_factory=lambda: {"width": 64, "depth": 3, "heads": 4})
    samples: int = 1000
    sampling: tuple[int, ...] = (16, 64)
    temperatures: tuple[float, ...] = (1.0,)
    toy: tuple[int, ...] = (16, 64, 256)
    chunk: int = 250
    train: Mapping[str, Any] = field(default_factory=lambda: {"device": "cpu"})

    @property
    def device(self) -> str:
        return self.train["device"]


def _digits(scale: Scale) -> _Setting:
    data = digit_images(16)
    net = {"channels": 1, "widths": (64,), "blocks": 1, "stem": 4, "attention_levels": 0, "middle": False}
    full = _Setting(data.train, data.other, judge(16, 300 if scale == "small" else 4).frechet, net, latent=64)
    if scale == "small":
        return full
    return replace(
        full,
        x=full.x[:500],
        other=full.other[:200],
        code_steps=4,
        code_batch=32,
        steps=8,
        batch=32,
        network={"width": 32, "depth": 2, "heads": 2},
        samples=100,
        sampling=(4, 8),
        levels=8,
        toy=(16, 64),
    )


def _photographs(tiny: bool = False) -> _Setting:
    """CIFAR-10 on one GPU; ``tiny`` runs the same code in seconds on a CPU."""
    gpu = torch.cuda.is_available() and not tiny
    device, precision = ("cuda", "bf16-mixed") if gpu else ("cpu", "32-true")
    data = photographs()
    rows = 200 if tiny else 20_000
    held = slice(rows, 2 * rows if tiny else None)
    widths = (8, 8) if tiny else (64, 128, 256, 512)
    judge = PhotoJudge(
        data.train[held],
        data.train_y[held],
        data.test[:rows],
        steps=2 if tiny else 3000,
        widths=widths,
        device=device,
        precision=precision,
    )
    full = _Setting(
        data.train[:rows],
        data.test[:rows],
        judge.frechet,
        {"channels": 3, "widths": (64, 128, 128), "blocks": 1, "attention_levels": 1},
        latent=128,
        bits=32,
        reconstruct=(32, 16, 8),
        code_steps=1500,
        code_batch=128,
        steps=7000,
        batch=128,
        levels=256,
        samples=2000,
        network={"width": 256, "depth": 8, "heads": 8},
        sampling=(8, 16, 64, 256),
        temperatures=(1.0, 0.9, 0.8),
        chunk=2000,
        train={"device": device, "precision": precision},
    )
    if not tiny:
        return full
    small = {"channels": 3, "widths": (8, 8, 8), "blocks": 1, "attention_levels": 1}
    return replace(
        full,
        net=small,
        latent=8,
        code_steps=2,
        steps=2,
        code_batch=16,
        batch=16,
        levels=8,
        network={"width": 16, "depth": 1, "heads": 2},
        sampling=(4, 8),
        temperatures=(1.0, 0.9),
        samples=64,
        toy=(16, 64),
    )


# Claim 4: the two reversed kernels with an exact denoiser, by enumeration.

_TEMPLATES = ("00000000", "11110000", "00111100", "10101010")


def _toy(steps: Sequence[int]) -> dict[str, float]:
    """Distance of the sampled law from the data's, four noisy templates of eight bits; nothing is random here."""
    rows = torch.tensor([[int(c) for c in row] for row in _TEMPLATES])
    out: dict[str, float] = {}
    for n in steps:
        model = ExactBitDenoiser(rows, 0.05, BinarySchedule(n))
        data = model.log_prob(bit_states(8)).exp()
        for kind, name in _POSTERIORS.items():
            out[f"toy-{name}/tv@{n}"] = total_variation(sampler_law(model, 8, posterior=kind), data)
        coins = torch.full_like(data, 1 / len(data))
        out["toy-coins/tv"] = total_variation(coins, data)
    return out


# Claim 1: codes at equal encoder and decoder.


def _autoencoder(s: _Setting, bottleneck: Callable[[int], Bottleneck], seed: int) -> ConvAutoencoder:
    with isolated_rng(spawn_seed(seed, "weights")):
        return ConvAutoencoder(bottleneck(s.latent), **s.net)


def _fit(s: _Setting, bottleneck: Callable[[int], Bottleneck], seed: int) -> ConvAutoencoder:
    """Every code is trained on the same batches in the same order, with the same steps."""
    net = _autoencoder(s, bottleneck, seed)
    train_autoencoder(
        net,
        s.x,
        loss=ReconstructionLoss(l1=1.0, l2=1.0),
        steps=s.code_steps,
        batch_size=s.code_batch,
        lr=5e-3,
        schedule="cosine",
        warmup=0.03,
        clip_norm=1.0,
        seed=spawn_seed(seed, "code"),
        **s.train,
    )
    return net


@torch.no_grad()
def _encode(s: _Setting, net: ConvAutoencoder, x: Tensor, rng: torch.Generator | None) -> Tensor:
    """Codes of images: draws with a generator, else the most probable ones."""
    parts = [net.encode(part.to(s.device), generator=rng, sample=rng is not None) for part in x.split(500)]
    return torch.cat(parts).cpu()


@torch.no_grad()
def _decode(s: _Setting, net: ConvAutoencoder, codes: Tensor) -> Tensor:
    return torch.cat([net.decode(part.to(s.device)).float().cpu() for part in codes.split(500)]).clamp(-1, 1)


def _error(s: _Setting, net: ConvAutoencoder, rng: torch.Generator | None = None) -> float:
    """Mean squared error of held-out images from their codes."""
    return float((_decode(s, net, _encode(s, net, s.other, rng)) - s.other).square().mean())


def _codes(s: _Setting, seed: int) -> tuple[dict[str, float], dict[str, ConvAutoencoder]]:
    makers: dict[str, Callable[[int], Bottleneck]] = {
        f"bae-{c}": lambda width, c=c: BernoulliCode(c, width) for c in dict.fromkeys((s.bits, *s.reconstruct))
    }
    makers["vq-256"] = lambda width: VectorQuantizer(256, width, dim=16)
    makers["gaussian-4"] = lambda width: GaussianKL(4, width, kl_weight=1e-4)
    out: dict[str, float] = {"mean-image/mse": float((s.other - s.x.mean(0)).square().mean())}
    blank = _autoencoder(s, makers[f"bae-{s.bits}"], seed).to(s.device).eval()
    out["untrained/mse"] = _error(s, blank)
    nets: dict[str, ConvAutoencoder] = {}
    for name, make in makers.items():
        nets[name] = net = _fit(s, make, seed)
        out[f"{name}/mse"] = _error(s, net)
        if name.startswith("bae"):
            rng = generator(spawn_seed(seed, "drawn", name), s.device)
            out[f"{name}/mse_drawn"] = _error(s, net, rng)
            entropy = bit_entropy(_encode(s, net, s.other, rng))
            out[f"{name}/bit_entropy"] = float(entropy.mean())
            out[f"{name}/dead_bits"] = float((entropy < 0.1).float().mean())
    out["vq-256/perplexity"] = float(code_perplexity(_encode(s, nets["vq-256"], s.other, None), 256))
    return out, nets


# Claims 2 and 3: priors over the codes.


def _network(s: _Setting, channels: int, grid: tuple[int, int], seed: int) -> BitTransformer:
    with isolated_rng(spawn_seed(seed, "prior weights")):
        return BitTransformer(channels, grid, steps=s.levels, **s.network)


class _LatentTransformer(nn.Module):
    """The same transformer on real latents: what it reads as 2 z - 1 is the latent itself."""

    def __init__(self, inner: BitTransformer) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Output:
        return self.inner((x + 1) / 2, t.round().long() + 1)


def _schedule(s: _Setting, seed: int) -> dict[str, Any]:
    return {
        "steps": s.steps,
        "batch_size": s.batch,
        "lr": 1e-3,
        "schedule": "cosine",
        "warmup": 0.03,
        "ema": 0.99,
        "clip_norm": 1.0,
        "seed": spawn_seed(seed, "prior"),
        **s.train,
    }


def _bit_prior(s: _Setting, p: Tensor, predict: Literal["flip", "direct"], seed: int) -> BinaryDiffusion:
    """A prior over codes with those probabilities; both parametrisations see the same codes, times and noise."""
    net = _network(s, p.shape[1], (p.shape[2], p.shape[3]), seed)
    model = BinaryDiffusion(net, BinarySchedule(s.levels), predict=predict)
    train_binary_diffusion(model, p, **_schedule(s, seed))
    return model


@torch.no_grad()
def _cross_entropies(
    s: _Setting, models: Mapping[str, BinaryDiffusion], p: Tensor, frequency: Tensor, seed: int
) -> dict[str, float]:
    """Cross-entropy of held-out bits given their noisy versions, at evenly spread times; the same for every model."""
    rng = generator(spawn_seed(seed, "held-out bits"))
    schedule = BinarySchedule(s.levels)
    total: dict[str, float] = {}
    n = 0
    for part in p.split(1000):
        z0 = bernoulli(part, generator=rng).float()
        t = torch.arange(len(z0)) % s.levels + 1
        z_t = schedule.q_sample(z0, t, generator=rng)
        one, zero = (schedule.marginal(torch.full_like(z0, v), t) for v in (1.0, 0.0))
        like1, like0 = (z_t * q + (1 - z_t) * (1 - q) for q in (one, zero))
        guesses = {"independent-bits": frequency * like1 / (frequency * like1 + (1 - frequency) * like0)}
        for name, model in models.items():
            guesses[name] = model.probability(z_t.to(s.device), t.to(s.device)).float().cpu()
        for name, guess in guesses.items():
            value = nn.functional.binary_cross_entropy(guess, z0)
            total[name] = total.get(name, 0.0) + float(value) * len(z0)
        n += len(z0)
    return {f"{name}/bce": value / n for name, value in total.items()} | {"untrained/bce": math.log(2)}


def _sample_bits(
    s: _Setting, model: BinaryDiffusion, shape: Sequence[int], steps: int, seed: int, **options: Any
) -> Tensor:
    rng = generator(spawn_seed(seed, "sampling"), s.device)
    sizes = [min(s.chunk, s.samples - i) for i in range(0, s.samples, s.chunk)]
    return torch.cat([model.sample((n, *shape), steps=steps, generator=rng, **options).x.cpu() for n in sizes])


def _bits(s: _Setting, net: ConvAutoencoder, seed: int) -> dict[str, float]:
    p, held_out = bit_probabilities(net, s.x), bit_probabilities(net, s.other)
    models = {kind: _bit_prior(s, p, kind, seed) for kind in ("flip", "direct")}
    frequency = p.mean(0, keepdim=True)
    out = _cross_entropies(s, models, held_out, frequency, seed)
    model, shape = models["flip"], p.shape[1:]
    few = bernoulli(held_out[:50], generator=generator(spawn_seed(seed, "bound"))).float().to(s.device)
    for kind, m in models.items():
        rng = generator(spawn_seed(seed, "bound noise"), s.device)
        out[f"{kind}/bits_per_dim"] = float(m.nelbo(few, generator=rng).mean())
    for kind, name in _POSTERIORS.items():
        model.posterior = kind
        for temperature in s.temperatures:
            tag = "" if temperature == 1 else f",tau={temperature:g}"
            for steps in s.sampling:
                z = _sample_bits(s, model, shape, steps, seed, temperature=temperature)
                out[f"{name}/fd@{steps}{tag}"] = s.distance(_decode(s, net, z))
    for steps in s.sampling:
        z = _sample_bits(s, models["direct"], shape, steps, seed)
        out[f"direct/fd@{steps}"] = s.distance(_decode(s, net, z))
    rng = generator(spawn_seed(seed, "control bits"))
    codes = {
        "reconstructions": p[: s.samples],
        "independent-bits": frequency.expand(s.samples, *shape),
        "coins": torch.full((s.samples, *shape), 0.5),
    }
    for name, probability in codes.items():
        out[f"{name}/fd"] = s.distance(_decode(s, net, bernoulli(probability, generator=rng).float()))
    return out


def _gaussian(s: _Setting, net: ConvAutoencoder, seed: int) -> dict[str, float]:
    """The same transformer, trained as long, on continuous latents; ancestral sampling."""
    latents = _encode(s, net, s.x, generator(spawn_seed(seed, "latents"), s.device))
    scale = latents.std()
    channels, *grid = latents.shape[1:]
    # The usual betas of 1,000 levels, each level standing for 1000 / T of them.
    wide = 1000 / s.levels
    path = DDPMSchedule(s.levels, beta_start=1e-4 * wide, beta_end=min(0.02 * wide, 0.999))
    model = Denoiser(_LatentTransformer(_network(s, channels, (grid[0], grid[1]), seed)), path, "noise")
    train_diffusion(model, latents / scale, optimizer="adam", **_schedule(s, seed))
    out: dict[str, float] = {}
    for steps in s.sampling:
        rng = generator(spawn_seed(seed, "gaussian sampling", steps), s.device)
        parts = []
        for i in range(0, s.samples, s.chunk):
            shape = (min(s.chunk, s.samples - i), *latents.shape[1:])
            start = torch.randn(shape, generator=rng, device=s.device)
            parts.append(ddpm(model, start, steps=steps, generator=rng).x.cpu())
        out[f"gaussian/fd@{steps}"] = s.distance(_decode(s, net, torch.cat(parts) * scale))
    out["gaussian-reconstructions/fd"] = s.distance(_decode(s, net, latents[: s.samples]))
    return out


def _experiment(scale: Scale, seed: int) -> dict[str, float]:
    s = _photographs() if scale == "gpu" else _digits(scale)
    out = _toy(s.toy)
    codes, nets = _codes(s, seed)
    out |= codes | _bits(s, nets[f"bae-{s.bits}"], seed) | _gaussian(s, nets["gaussian-4"], seed)
    return out | {"real/fd": s.distance(s.x[: s.samples])}


def _ratio(a: str, b: str) -> Callable[[Values], float]:
    return lambda v: v[a] / v[b]


def _speed(name: str) -> Callable[[Values], float]:
    """Distance with 16 steps over that with 64, or with the two numbers of steps of a dry run."""

    def ratio(v: Values) -> float:
        few, many = (16, 64) if f"{name}/fd@64" in v else (4, 8)
        return v[f"{name}/fd@{few}"] / v[f"{name}/fd@{many}"]

    return ratio


PAPER = describe(
    30,
    experiment=_experiment,
    seeds=5,
    claims=(
        Claim(
            "8-bits",
            "with 8 bits a cell, the error of reconstructions is at most 1.1 times that of a codebook of 256 entries",
            _ratio("bae-8/mse", "vq-256/mse"),
            at_most=1.10,
            note="0.0247 against 0.0155 after 600 steps; with four times the steps 0.0148 against 0.0078: a codebook "
            "has a free vector for each of 256 codes, eight bits span them by eight",
        ),
        Claim(
            "16-bits",
            "with 16 bits a cell it is at most 0.85 times that of the codebook",
            _ratio("bae-16/mse", "vq-256/mse"),
            at_most=0.85,
            note="0.0180 against 0.0155; with four times the steps 0.0100 against 0.0078, no nearer",
        ),
        Claim(
            "flip",
            "predicting flips gives a lower cross-entropy of held-out bits than predicting the bits",
            lambda v: v["direct/bce"] - v["flip/bce"],
            at_least=0.0,
            null=0.0,
            note="0.454 against 0.427 on the mean, and samples are farther: what the noisy bit and its neighbours "
            "say adds up in the logit of the bit, while a flip's logit turns over with the noisy bit",
        ),
        Claim(
            "few-steps",
            "samples of 16 steps are at most 1.25 times as far from real images as those of 64 (Fréchet distance)",
            _speed("mixture"),
            at_most=1.25,
        ),
        Claim(
            "few-steps-gaussian",
            "and Gaussian diffusion on continuous latents loses more by taking 16 steps in place of 64",
            lambda v: _speed("gaussian")(v) - _speed("mixture")(v),
            at_least=0.0,
            null=0.0,
        ),
        Claim(
            "plug-in",
            "with an exact denoiser, the published kernel's law after 64 steps is 0.2 away from the data's in total "
            "variation",
            lambda v: v["toy-plug-in/tv@64"],
            at_least=0.2,
        ),
        Claim(
            "mixture",
            "and the exact kernel's at most 0.03",
            lambda v: v["toy-mixture/tv@64"],
            at_most=0.03,
        ),
    ),
)
