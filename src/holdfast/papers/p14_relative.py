"""Moschella et al., "Relative representations enable zero-shot latent space communication", ICLR 2023."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations
from typing import Any, Literal

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.core.batching import Batches, BatchPlan
from holdfast.core.random import generator, isolated_rng, spawn_seed
from holdfast.core.training import train
from holdfast.metrics.similarity import mean_cosine
from holdfast.nn.backbones import ConvNet, ViT
from holdfast.nn.network import Network
from holdfast.papers._word_spaces import random_rotation, word_spaces
from holdfast.papers.catalogue import describe
from holdfast.papers.record import Claim, Scale, Values
from holdfast.representation.anchors import AnchorSet
from holdfast.representation.relative import relative_projection
from holdfast.representation.relative_encoder import RelativeEncoder
from holdfast.representation.space_comparison import compare_spaces
from holdfast.representation.stitching import stitch

__all__ = ["PAPER"]

Task = Literal["classes", "image"]


@dataclass(frozen=True)
class _Setting:
    """Data in [0, 1], one encoder per model, and what reconstructs the data."""

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    encoders: tuple[Callable[[], nn.Module], ...]
    decoder: Callable[[int], nn.Module]
    """From the number of entries of the representation to the decoder."""
    latent: int
    n_anchors: int
    epochs: int
    batch: int = 128
    device: str = "cpu"


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 32))


def _to_pixels(d: int) -> nn.Module:
    return nn.Sequential(nn.Linear(d, 256), nn.ReLU(), nn.Linear(256, 64), nn.Sigmoid())


def _digits(seed: int, n_models: int, n_anchors: int, epochs: int) -> _Setting:
    x, y = load_digits(return_X_y=True)
    split = train_test_split(
        (x / 16).astype(np.float32), y, test_size=0.3, stratify=y, random_state=spawn_seed(seed, "split")
    )
    x, x_test, y, y_test = map(torch.from_numpy, split)
    return _Setting(x, y, x_test, y_test, (_mlp,) * n_models, _to_pixels, 32, n_anchors, epochs)


def _conv() -> nn.Module:
    net = ConvNet((1, 28, 28), widths=(32, 64, 128), depth=2, resolution=28)
    return nn.Sequential(net, nn.Linear(net.out_dim, 500))


def _vit() -> nn.Module:
    net = ViT((1, 28, 28), width=128, depth=4, heads=4, grid=7)
    return nn.Sequential(net, nn.Linear(net.out_dim, 500))


def _deconv(d: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(d, 64 * 7 * 7),
        nn.GELU(),
        nn.Unflatten(1, (64, 7, 7)),
        nn.ConvTranspose2d(64, 32, 4, 2, 1),
        nn.GELU(),
        nn.ConvTranspose2d(32, 1, 4, 2, 1),
        nn.Sigmoid(),
    )


def _clothes(seed: int) -> _Setting:
    """Fashion-MNIST, or rendered glyphs of ten classes where its files cannot be had."""
    try:
        from holdfast.data.named import load_named

        parts = [load_named("fashion-mnist", part=part) for part in ("train", "test")]
        x, x_test = (torch.from_numpy(np.array(p.x)).float() / 255 for p in parts)
        y, y_test = (torch.from_numpy(np.unique(p.y, return_inverse=True)[1].astype(np.int64)) for p in parts)
    except (OSError, ValueError):
        from holdfast.papers import _glyphs

        glyphs = _glyphs.make_glyphs(spawn_seed(seed, "glyphs"), 5, 2, 3000)
        x, y, x_test, y_test = _glyphs.split(glyphs, 500)
        x, x_test = (part[..., 2:30, 2:30].float() / 255 for part in (x, x_test))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return _Setting(x, y, x_test, y_test, (_conv, _conv, _vit), _deconv, 500, 500, 10, device=device)


def _classify(d: int, n_classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(d, 256), nn.ReLU(), nn.Linear(256, n_classes))


def _fit(s: _Setting, make: Callable[[], nn.Module], anchors: AnchorSet | None, task: Task, seed: int) -> Network:
    """Train one model from weights and an order of its own; without anchors it is the absolute model."""
    d = s.latent if anchors is None else len(anchors)
    with isolated_rng(spawn_seed(seed, "weights")):
        head = _classify(d, int(s.y.max()) + 1) if task == "classes" else s.decoder(d)
        if anchors is None:
            network = Network(make(), nn.Sequential(nn.LayerNorm(d), head))
        else:
            network = Network(RelativeEncoder(make(), anchors), head)
    plan = BatchPlan(len(s.x), s.batch, seed=spawn_seed(seed, "order"))

    def loss(net: nn.Module, batch: tuple[Tensor, Tensor], info: Any) -> Tensor:
        x, y = batch
        if task == "classes":
            return F.cross_entropy(net(x), y)
        # Gaussian negative log-likelihood per pixel at the shared variance that minimises it, as the authors train.
        return 0.5 * (1 + F.mse_loss(net(x), x).log())

    train(
        network,
        loss,
        Batches(plan, lambda rows: (s.x[rows], s.y[rows])),
        steps=s.epochs * len(plan),
        optimizer="adam",
        lr=1e-3,
        device=s.device,
        seed=spawn_seed(seed, "steps"),
    )
    return network


class _Permuted(nn.Module):
    """A stitched model whose anchors are taken for each other: control."""

    def __init__(self, source: Any, target: Any, order: Tensor) -> None:
        super().__init__()
        self.source, self.target, self.order = source, target, order

    def forward(self, x: Tensor) -> Tensor:
        source: Any = self.source
        r = source.relative(x)[:, self.order]
        target: Any = self.target
        return target.head(target.encoder.normalize(r))


class _Aligned(nn.Module):
    """Absolute features mapped onto another model's by the similarity transform that fits the anchors best."""

    def __init__(self, source: Network, target: Network, anchors: Tensor) -> None:
        super().__init__()
        self.source, self.target = source, target
        a, b = source.features(anchors).double(), target.features(anchors).double()
        self.from_mean, self.to_mean = a.mean(0), b.mean(0)
        a, b = a - self.from_mean, b - self.to_mean
        left, values, right = torch.linalg.svd(a.mT @ b)
        self.map = left @ right * values.sum() / a.square().sum()

    def forward(self, x: Tensor) -> Tensor:
        z = self.source.features(x)
        moved = (z - self.from_mean.to(z)) @ self.map.to(z) + self.to_mean.to(z)
        return self.target.head(moved)


@torch.no_grad()
def _error(model: nn.Module, s: _Setting, task: Task) -> float:
    """Accuracy of a classifier, or mean squared error of a reconstruction, on the test part."""
    total = 0.0
    for x, y in zip(s.x_test.split(1000), s.y_test.split(1000)):
        x, y = x.to(s.device), y.to(s.device)
        out = model(x)
        total += float((out.argmax(1) == y).double().sum() if task == "classes" else (out - x).square().mean() * len(x))
    return total / len(s.x_test)


def _communicate(s: _Setting, seed: int) -> tuple[dict[str, float], Network]:
    """Train every model absolutely and relatively for both tasks, and join every encoder to every other head."""
    chosen = AnchorSet.sample(len(s.x), s.n_anchors, generator=generator(spawn_seed(seed, "anchors"))).of(s.x)
    rng = generator(spawn_seed(seed, "permuted anchors"))
    anchor_inputs = s.x[chosen.indices].to(s.device)
    out: dict[str, float] = {}
    encoders: list[Network] = []
    tasks: tuple[tuple[Task, str], ...] = (("classes", "acc"), ("image", "mse"))
    for task, metric in tasks:
        absolute, relative = (
            [_fit(s, make, a, task, spawn_seed(seed, task, kind, i)) for i, make in enumerate(s.encoders)]
            for kind, a in (("absolute", None), ("relative", chosen))
        )
        with isolated_rng(spawn_seed(seed, "untrained")), torch.no_grad():
            blank = _fit_nothing(s, chosen, task).to(s.device)
        encoders += absolute
        scores: dict[str, list[float]] = {
            f"absolute/{metric}_self": [_error(m, s, task) for m in absolute],
            f"relative/{metric}_self": [_error(m, s, task) for m in relative],
            f"untrained/{metric}": [_error(blank, s, task)],
        }
        for i, j in permutations(range(len(s.encoders)), 2):
            # The two kinds of encoder at the large scale are kept apart: their spaces agree less.
            tag = "" if s.encoders[i] is s.encoders[j] else "_across_architectures"
            joined: dict[str, nn.Module] = {
                "absolute": Network(absolute[i].encoder, absolute[j].head),
                "relative": stitch(relative[i], relative[j]),
            }
            with torch.no_grad():
                joined["procrustes"] = _Aligned(absolute[i], absolute[j], anchor_inputs)
            order = torch.randperm(len(chosen), generator=rng)
            joined["permuted"] = _Permuted(relative[i].encoder, relative[j], order.to(s.device))
            for name, model in joined.items():
                scores.setdefault(f"{name}/{metric}_stitched{tag}", []).append(_error(model, s, task))
        out |= {k: float(np.mean(v)) for k, v in scores.items()}
    return out, encoders[0]


def _fit_nothing(s: _Setting, anchors: AnchorSet, task: Task) -> Network:
    head = _classify(len(anchors), int(s.y.max()) + 1) if task == "classes" else s.decoder(len(anchors))
    return Network(RelativeEncoder(s.encoders[0](), anchors), head).eval()


@torch.no_grad()
def _invariance(network: Network, s: _Setting, seed: int) -> dict[str, float]:
    """Rotate and rescale a trained space: relative vectors do not move, absolute ones lose their meaning."""
    rng = generator(spawn_seed(seed, "rotations"))
    z = network.features(s.x_test[:500].to(s.device)).double().cpu()
    a = network.features(s.x[: s.n_anchors].to(s.device)).double().cpu()
    r, absolute, worst = relative_projection(z, a), [], 0.0
    for _ in range(20):
        q = random_rotation(z.shape[1], rng)
        moved = relative_projection(3.7 * z @ q, 3.7 * a @ q)
        worst = max(worst, abs(1 - mean_cosine(r, moved)))
        absolute.append(mean_cosine(z, 3.7 * z @ q))
    return {"rotated/relative_cosine_gap": worst, "rotated/absolute_cosine": float(np.mean(absolute))}


def _words(seed: int, n_words: int, tokens: float, sizes: tuple[int, ...]) -> dict[str, float]:
    """Retrieve words across two embeddings, of one width and of two widths."""
    first, second = word_spaces(seed, n_words, tokens)
    out: dict[str, float] = {}
    for prefix, pair in (("words", (first[50], second[50])), ("words-50-64", (first[50], second[64]))):
        for k in sizes:
            draws = [compare_spaces(*pair, n_anchors=k, seed=spawn_seed(seed, "anchors", k, i)) for i in range(3)]
            for name, metrics in draws[0].items():
                for metric in metrics:
                    value = float(np.mean([d[name][metric] for d in draws]))
                    out[f"{prefix}-{name}/{metric}@{k}"] = value
    return out


def _experiment(scale: Scale, seed: int) -> dict[str, float]:
    if scale == "gpu":
        s = _clothes(seed)
    elif scale == "small":
        s = _digits(seed, n_models=3, n_anchors=100, epochs=25)
    else:
        s = _digits(seed, n_models=2, n_anchors=20, epochs=1)
    out, network = _communicate(s, seed)
    out |= _invariance(network, s, seed)
    return out | (_words(seed, 200, 1e5, (10, 30)) if scale == "smoke" else _words(seed, 1000, 3e6, (10, 30, 100, 300)))


def _gap(a: str, b: str) -> Callable[[Values], float]:
    return lambda v: v[a] - v[b]


def _ratio(a: str, b: str) -> Callable[[Values], float]:
    return lambda v: v[a] / v[b]


def _many_anchors(prefix: str) -> Callable[[Values], float]:
    """Smallest mean reciprocal rank over the anchor counts from 30 on."""
    return lambda v: min(x for k, x in v.items() if k.startswith(f"{prefix}-relative/mrr@") and k[-3:] != "@10")


PAPER = describe(
    14,
    experiment=_experiment,
    seeds=5,
    claims=(
        Claim(
            "stitched-accuracy",
            "classifiers joined from the encoder of one and the head of another network are 50 points more accurate "
            "through relative than through absolute representations",
            _gap("relative/acc_stitched", "absolute/acc_stitched"),
            at_least=0.5,
        ),
        Claim(
            "no-cost",
            "training on relative representations costs at most 2 points of accuracy",
            _gap("relative/acc_self", "absolute/acc_self"),
            at_least=-0.02,
        ),
        Claim(
            "stitched-reconstruction",
            "the error of joined auto-encoders is at most 0.4 of that through absolute representations",
            _ratio("relative/mse_stitched", "absolute/mse_stitched"),
            at_most=0.4,
        ),
        Claim(
            "stitched-reconstruction-cost",
            "and at most 3 times that of the relative auto-encoders before they were taken apart",
            _ratio("relative/mse_stitched", "relative/mse_self"),
            at_most=3.0,
        ),
        Claim(
            "rotation-relative",
            "relative vectors of a rotated and rescaled space are the same, to 1e-5 in mean cosine",
            lambda v: v["rotated/relative_cosine_gap"],
            at_most=1e-5,
        ),
        Claim(
            "rotation-absolute",
            "while absolute ones have a mean cosine within 0.15 of zero",
            lambda v: abs(v["rotated/absolute_cosine"]),
            at_most=0.15,
        ),
        Claim(
            "words-10",
            "between two independent word embeddings, 10 anchors give a mean reciprocal rank of 0.7",
            lambda v: v["words-relative/mrr@10"],
            at_least=0.7,
        ),
        Claim("words-30", "30 and more anchors give 0.98", _many_anchors("words"), at_least=0.98),
        Claim(
            "words-absolute",
            "absolute coordinates give at most 0.05",
            lambda v: v["words-absolute/mrr@10"],
            at_most=0.05,
        ),
        Claim(
            "words-widths",
            "embeddings of 50 and 64 dimensions understand each other as well, 0.98 with 30 and more anchors",
            _many_anchors("words-50-64"),
            at_least=0.98,
        ),
    ),
)
