"""The arms of the study of alternating pixel-token diffusion: data, tokenizer, predictor, networks, baselines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.core.batching import Batches, BatchPlan
from holdfast.core.random import generator, isolated_rng, spawn_seed
from holdfast.core.steps import StepInfo
from holdfast.core.training import train
from holdfast.diffusion.alternating.addp import ADDP, soft_token_loss
from holdfast.diffusion.alternating.pixel_to_token import PixelToToken
from holdfast.diffusion.alternating.ratio_law import RatioLaw
from holdfast.diffusion.alternating.token_predictor import MaskedTokenPredictor
from holdfast.diffusion.alternating.tokenizer import FrozenTokenizer
from holdfast.diffusion.alternating.training import adamw, train_token_predictor
from holdfast.diffusion.autoencoder import ConvAutoencoder, ReconstructionLoss, VectorQuantizer, train_autoencoder
from holdfast.diffusion.backbones.transformer import Transformer
from holdfast.diffusion.backbones.vit import ViTEncoder
from holdfast.metrics.generation import frechet_distance
from holdfast.nn.backbones import ResNet
from holdfast.papers._digit_images import digit_images, judge
from holdfast.papers._photographs import photographs
from holdfast.papers.record import Scale

__all__ = ["Arms", "MaskedAutoencoder", "Setting", "setting", "train_arms"]


@dataclass(frozen=True)
class Setting:
    """Data in [0, 1] and the size of everything."""

    x: Float[Tensor, "n c side side"]
    y: Int[Tensor, " n"]
    x_test: Float[Tensor, "m c side side"]
    y_test: Int[Tensor, " m"]
    frechet: Callable[[Tensor], float]
    """From generated images in [0, 1] to their distance to real ones."""
    codes: int = 64
    code_dim: int = 32
    vq: dict[str, Any] | None = None
    """Of the autoencoder; its grid is that of the patches."""
    patch: int = 4
    width: int = 64
    depth: int = 4
    decoder_depth: int = 2
    mlp_ratio: float = 2.0
    vq_steps: int = 300
    vq_batch: int = 64
    vq_lr: float = 2e-3
    predictor_steps: int = 2000
    steps: int = 550
    batch: int = 32
    lr: float = 3e-3
    init_std: float = 0.2
    dropout: float = 0.0
    labels: tuple[int, int] = (3000, 100)
    draws: int = 3
    """How many times the smaller number of labels is drawn."""
    tune_epochs: int = 30
    samples: int = 2000
    generation_steps: int = 8
    temperature: float = 3.0
    device: str = "cpu"
    precision: str = "32-true"
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None


def _digits(scale: Scale) -> Setting:
    data = digit_images(16)
    jury = judge(16, 300 if scale == "small" else 60)
    vq = {"widths": (64,), "blocks": 1, "attention_levels": 0, "middle": False, "stem": 4}
    full = Setting(
        x=(data.train + 1) / 2,
        y=data.train_y,
        x_test=((data.other + 1) / 2)[:3000],
        y_test=data.other_y[:3000],
        frechet=lambda x: jury.frechet(2 * x.cpu().float() - 1),
        vq=vq,
    )
    if scale == "small":
        return full
    return replace(
        full,
        x=full.x[:512],
        y=full.y[:512],
        x_test=full.x_test[:256],
        y_test=full.y_test[:256],
        vq=vq | {"widths": (32,)},
        vq_steps=40,
        predictor_steps=30,
        steps=15,
        vq_batch=32,
        width=32,
        depth=2,
        decoder_depth=1,
        labels=(256, 100),
        draws=1,
        tune_epochs=1,
        samples=128,
        generation_steps=4,
    )


def _photographs(x: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half of the images and move all by up to two pixels."""
    flip = torch.rand(len(x), device=x.device, generator=generator) < 0.5
    x = torch.where(flip[:, None, None, None], x.flip(3), x)
    padded, side = F.pad(x, (2, 2, 2, 2), mode="reflect"), x.shape[-1]
    top, left = torch.randint(0, 5, (2, len(x), 1), device=x.device, generator=generator)
    rows, columns = (start + torch.arange(side, device=x.device) for start in (top, left))
    batch = torch.arange(len(x), device=x.device)[:, None, None]
    return padded[batch, :, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


def _cifar() -> Setting:
    """CIFAR-10 on one GPU; digits at 32 x 32 in its place where the files cannot be had (a dry run)."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    data = photographs()
    x, x_test = ((v + 1) / 2 for v in (data.train, data.test))
    y, y_test = data.train_y, data.test_y
    return Setting(
        x=x,
        y=y,
        x_test=x_test,
        y_test=y_test,
        frechet=_classifier_frechet(x, y, x_test, device, steps=3000 if device == "cuda" else 20),
        codes=512,
        code_dim=32,
        vq={"widths": (64, 128, 256), "blocks": 2, "attention_levels": 1},
        width=256,
        depth=8,
        decoder_depth=4,
        mlp_ratio=4.0,
        vq_steps=6000,
        predictor_steps=10000,
        steps=6000,
        vq_batch=128,
        vq_lr=5e-4,
        batch=256,
        lr=1e-3,
        init_std=0.02,
        dropout=0.1,
        labels=(20000, 1000),
        draws=1,
        tune_epochs=30,
        samples=10000,
        generation_steps=20,
        temperature=4.5,
        device=device,
        precision="bf16-mixed" if device == "cuda" else "32-true",
        augment=_photographs,
    )


def _classifier_frechet(x: Tensor, y: Tensor, real: Tensor, device: str, steps: int) -> Callable[[Tensor], float]:
    """Train a classifier with a fixed seed, and return the distance to ``real`` in its features."""
    with isolated_rng(0):
        trunk = ResNet((x.shape[1], *x.shape[2:]), widths=(64, 128, 256, 64), blocks=(2, 2, 2, 1), resolution=32)
        net = nn.Sequential(trunk, nn.Linear(64, int(y.max()) + 1))

    def loss(net: nn.Module, batch: tuple[Tensor, Tensor], info: StepInfo) -> Tensor:
        return F.cross_entropy(net(_photographs(batch[0], info.generator)), batch[1])

    batches = Batches(BatchPlan(len(x), 256, seed=0), lambda rows: (x[rows], y[rows]))
    precision = "bf16-mixed" if device == "cuda" else "32-true"
    train(net, loss, batches, steps=steps, lr=2e-3, schedule="cosine", device=device, precision=precision, seed=0)

    @torch.no_grad()
    def features(images: Tensor) -> Tensor:
        return torch.cat([trunk(part.to(device)).float().cpu() for part in images.split(1000)])

    reference = features(real)
    return lambda images: frechet_distance(features(images), reference)


def setting(scale: Scale) -> Setting:
    """Return the data and sizes of a scale."""
    return _cifar() if scale == "gpu" else _digits(scale)


class MaskedAutoencoder(nn.Module):
    """Baseline: the same encoder on the visible quarter of the patches, a decoder that fills in normalised pixels.

    Source: He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022.
    """

    def __init__(self, encoder: ViTEncoder, decoder_depth: int, mlp_ratio: float, hidden: float = 0.75) -> None:
        super().__init__()
        self.encoder = encoder
        self.visible = max(1, round((1 - hidden) * encoder.length))
        width = encoder.width
        self.enter, self.mask_token = nn.Linear(width, width), nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, 1 + encoder.length, width))
        self.decoder = Transformer(width, decoder_depth, encoder.heads, mlp_ratio=mlp_ratio)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, encoder.in_channels * encoder.patch**2))
        for weight in (self.mask_token, self.positions):
            nn.init.trunc_normal_(weight, std=0.02)

    def loss(self, x: Float[Tensor, "batch c side side"], rng: torch.Generator) -> Tensor:
        """Mean squared error on normalised pixels of hidden patches."""
        encoder, p = self.encoder, self.encoder.patch
        order = torch.rand(len(x), encoder.length, device=x.device, generator=rng).argsort(1)
        keep, hidden = order[:, : self.visible, None], order[:, self.visible :, None]
        seen = encoder(x, keep=keep[..., 0])
        cls, patches = self.enter(seen.cls[:, None]), self.enter(seen.patches)
        spread = self.mask_token.to(patches.dtype).expand(len(x), encoder.length, -1)
        full = spread.scatter(1, keep.expand(-1, -1, patches.shape[2]), patches)
        out, _ = self.decoder(torch.cat([cls, full], dim=1) + self.positions)
        pixels = F.unfold(x, p, stride=p).mT
        normal = (pixels - pixels.mean(-1, keepdim=True)) / (pixels.var(-1, keepdim=True) + 1e-6).sqrt()
        guess = self.head(out[:, 1:])
        return (guess.float() - normal).square().gather(1, hidden.expand(-1, -1, normal.shape[2])).mean()


class _Together(nn.Module):
    """Several networks trained on the same draws: what is drawn and decoded once serves them all."""

    def __init__(self, base: ADDP, networks: dict[str, PixelToToken]) -> None:
        super().__init__()
        self.base, self.networks = base, nn.ModuleDict(networks)

    def train(self, mode: bool = True) -> _Together:
        super().train(mode)
        self.base.train(mode)
        return self

    def loss(self, ids: Tensor, rng: torch.Generator) -> Tensor:
        # Sums of losses of networks that share nothing: each gets its own gradient, and Adam works entry by entry.
        drawn = self.base.draw(ids, rng)
        true = F.one_hot(ids, self.base.tokenizer.codes).float()
        return torch.stack(
            [
                soft_token_loss(
                    network(drawn.x, ids, drawn.mask),
                    true if name == "hard" else drawn.target,
                    drawn.mask,
                    self.base.label_smoothing,
                )
                for name, network in self.networks.items()
            ]
        ).sum()


@dataclass(frozen=True)
class Arms:
    """Everything that one seed trained."""

    tokenizer: FrozenTokenizer
    predictor: MaskedTokenPredictor
    blank_predictor: MaskedTokenPredictor
    addp: dict[str, ADDP]
    """``addp``, ``no-tokens`` (pixels alone) and ``hard`` (true tokens for targets)."""
    pixels: MaskedAutoencoder
    blank: ViTEncoder
    ids: Int[Tensor, "n tokens"]


def _encoder(s: Setting, seed: int) -> ViTEncoder:
    mean, std = s.x.mean((0, 2, 3)).tolist(), s.x.std((0, 2, 3)).tolist()
    heads = max(1, s.width // 32) if s.width > 128 else 4
    with isolated_rng(spawn_seed(seed, "encoder")):
        return ViTEncoder(
            s.x.shape[1],
            s.x.shape[2],
            s.patch,
            s.width,
            s.depth,
            heads,
            mlp_ratio=s.mlp_ratio,
            dropout=s.dropout,
            mean=mean,
            std=std,
        )


def _network(s: Setting, seed: int, **options: Any) -> PixelToToken:
    encoder = _encoder(s, seed)
    with isolated_rng(spawn_seed(seed, "decoder")):
        sizes = {"decoder_depth": s.decoder_depth, "mlp_ratio": s.mlp_ratio, "init_std": s.init_std}
        return PixelToToken(encoder, s.codes, **sizes, **options)


def _predictor(s: Setting, tokens: int, seed: int) -> MaskedTokenPredictor:
    heads = max(1, s.width // 32) if s.width > 128 else 4
    sizes = {"width": s.width, "depth": s.depth, "heads": heads, "decoder_depth": s.decoder_depth}
    with isolated_rng(spawn_seed(seed, "predictor")):
        return MaskedTokenPredictor(
            s.codes, tokens, mlp_ratio=s.mlp_ratio, dropout=s.dropout, init_std=s.init_std, **sizes
        )


def _schedule(s: Setting) -> dict[str, Any]:
    """One recipe for all; no clipping, which would tie networks that are trained together."""
    return {
        "optimizer": adamw(s.lr),
        "lr": s.lr,
        "weight_decay": 0.05,
        "decay_norms_and_biases": False,
        "schedule": "cosine",
        "warmup": 0.05,
        "device": s.device,
        "precision": s.precision,
    }


def _tokenizer(s: Setting, seed: int) -> FrozenTokenizer:
    with isolated_rng(spawn_seed(seed, "tokenizer")):
        net = ConvAutoencoder(VectorQuantizer(s.codes, s.width, dim=s.code_dim), channels=s.x.shape[1], **(s.vq or {}))
    train_autoencoder(
        net,
        2 * s.x - 1,
        loss=ReconstructionLoss(l1=1.0, l2=1.0),
        steps=s.vq_steps,
        batch_size=s.vq_batch,
        lr=s.vq_lr,
        schedule="cosine",
        device=s.device,
        precision=s.precision,
        seed=spawn_seed(seed, "tokenizer"),
    )
    return FrozenTokenizer(net, s.x.shape[2])


def train_arms(s: Setting, seed: int) -> Arms:
    """Train tokenizer, predictor, the three alternating networks together, and the masked autoencoder."""
    tokenizer = _tokenizer(s, seed)
    with torch.no_grad():
        ids = torch.cat([tokenizer.encode(part.to(s.device)) for part in s.x.split(1000)]).cpu()
    predictor = _predictor(s, tokenizer.length, seed)
    recipe: dict[str, Any] = _schedule(s) | {"steps": s.predictor_steps, "clip_norm": None}
    options = {"batch_size": s.batch, "augment": s.augment, "seed": spawn_seed(seed, "predictor")}
    train_token_predictor(predictor, tokenizer, s.x, **recipe, **options)
    networks = {
        "addp": _network(s, seed),
        "no-tokens": _network(s, seed, token_input=False),
        "hard": _network(s, seed),
    }
    # One step of generation is that many points of the grid of ratios.
    law = RatioLaw(offset=max(1, 100 // s.generation_steps))
    base = ADDP(tokenizer, predictor, networks["addp"], law=law)
    plan = BatchPlan(len(s.x), s.batch, seed=spawn_seed(seed, "order"), drop_last=True)

    def alternate(module: Any, batch: Tensor, info: StepInfo) -> Tensor:
        if s.augment is not None:
            batch = tokenizer.encode(s.augment(batch, info.generator).clamp(0, 1))
        return module.loss(batch, info.generator)

    held = ids if s.augment is None else s.x
    together = _Together(base, networks)
    train(together, alternate, Batches(plan, lambda rows: held[rows]), steps=s.steps, seed=seed, **_schedule(s))

    with isolated_rng(spawn_seed(seed, "decoder")):
        pixels = MaskedAutoencoder(_encoder(s, seed), s.decoder_depth, s.mlp_ratio)

    def fill_in(module: Any, batch: Tensor, info: StepInfo) -> Tensor:
        x = batch if s.augment is None else s.augment(batch, info.generator)
        return module.loss(x, info.generator)

    train(pixels, fill_in, Batches(plan, lambda rows: s.x[rows]), steps=s.steps, seed=seed, **_schedule(s))
    return Arms(
        tokenizer=tokenizer,
        predictor=predictor.eval(),
        blank_predictor=_predictor(s, tokenizer.length, seed).eval().to(s.device),
        addp={name: ADDP(tokenizer, predictor, network, law=law).eval() for name, network in networks.items()},
        pixels=pixels,
        blank=_encoder(s, seed).eval().to(s.device),
        ids=ids,
    )


def marginal_tokens(ids: Int[Tensor, "n tokens"], samples: int, seed: int) -> Int[Tensor, "samples tokens"]:
    """Draw every position on its own, from the tokens that the data have there."""
    rows = torch.randint(len(ids), (samples, ids.shape[1]), generator=generator(seed))
    return ids.gather(0, rows)
