"""Kusupati et al., "Matryoshka Representation Learning", NeurIPS 2022."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from holdfast.core.batching import Batches, BatchPlan
from holdfast.core.random import generator, isolated_rng, spawn_seed
from holdfast.core.training import train
from holdfast.nn.matryoshka import MatryoshkaHead, nesting_dims
from holdfast.nn.network import Network
from holdfast.papers import _glyphs
from holdfast.papers.catalogue import describe
from holdfast.papers.record import Claim, Scale, Values
from holdfast.representation.cascade import AdaptiveCascade
from holdfast.representation.funnel_retrieval import AdaptiveRetriever
from holdfast.representation.matryoshka import MatryoshkaLoss, PCATruncator, PrefixCrossEntropy, RandomSubset

__all__ = ["PAPER"]


@dataclass(frozen=True)
class _Split:
    """Inputs and fine labels; ``group[c]`` is the superclass of class *c*."""

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    group: Tensor


@dataclass(frozen=True)
class _Setting:
    """How the networks of one world are made and trained."""

    dims: list[int]
    encoder: Callable[[int], nn.Module]
    """From output length to encoder."""
    epochs: int
    batch: int = 256
    lr: float = 2e-3
    coarse: int = 4
    """Prefix length for the superclass claim."""
    device: str = "cpu"
    precision: str = "32-true"


def _mlp(d_in: int) -> Callable[[int], nn.Module]:
    return lambda d: nn.Sequential(nn.Linear(d_in, 256), nn.ReLU(), nn.Linear(256, d))


def _hierarchy(seed: int, n_train: int, n_test: int) -> _Split:
    """8 superclasses of 8 classes in 64 dimensions, seen through a fixed random nonlinearity."""
    rng = generator(spawn_seed(seed, "world"))
    d, hidden, sup, sub = 64, 128, 8, 8
    means = torch.randn(sup, 1, d, generator=rng) + 0.6 * torch.randn(sup, sub, d, generator=rng)
    means = means.view(sup * sub, d)
    w1 = torch.randn(d, hidden, generator=rng) / d**0.5
    w2 = torch.randn(hidden, d, generator=rng) / hidden**0.5
    y = torch.randint(sup * sub, (n_train + n_test,), generator=rng)
    z = means[y] + torch.randn(n_train + n_test, d, generator=rng)
    x = z + 2 * torch.tanh(z @ w1) @ w2
    return _Split(x[:n_train], y[:n_train], x[n_train:], y[n_train:], torch.arange(sup * sub) // sub)


def _digits(seed: int) -> _Split:
    x, y = load_digits(return_X_y=True)
    split = train_test_split(
        (x / 16).astype(np.float32), y, test_size=600, stratify=y, random_state=spawn_seed(seed, "digits")
    )
    x, x_test, y, y_test = map(torch.from_numpy, split)
    return _Split(x, y, x_test, y_test, torch.arange(10))


def _head(network: Network) -> MatryoshkaHead:
    return cast("MatryoshkaHead", network.head)


def _fit(data: _Split, setting: _Setting, dims: list[int], efficient: bool, seed: int) -> Network:
    """Train an encoder of output length ``dims[-1]`` with nested heads; one length gives the ordinary network."""
    with isolated_rng(spawn_seed(seed, "weights")):
        network = Network(setting.encoder(dims[-1]), MatryoshkaHead(dims, len(data.group), efficient))
    loss = MatryoshkaLoss(PrefixCrossEntropy(_head(network)), dims)
    plan = BatchPlan(len(data.x), setting.batch, seed=spawn_seed(seed, "order"))
    train(
        network,
        lambda net, batch, info: loss(cast("Network", net).features(batch[0]), batch[1]),
        Batches(plan, lambda rows: (data.x[rows], data.y[rows])),
        steps=setting.epochs * len(plan),
        lr=setting.lr,
        weight_decay=1e-3,
        schedule="cosine",
        device=setting.device,
        precision=setting.precision,
        seed=seed,
    )
    return network


@torch.no_grad()
def _embed(network: Network, x: Tensor) -> Tensor:
    device = next(network.parameters()).device
    return torch.cat([network.features(part.to(device)).float().cpu() for part in x.split(2000)])


@torch.no_grad()
def _logits(network: Network, z: Tensor, m: int) -> Tensor:
    head = _head(network)
    device = next(head.parameters()).device
    return head.logits(z.to(device), m).cpu()


def _nearest(z: Tensor, z_test: Tensor, data: _Split, m: int) -> float:
    found = AdaptiveRetriever(z[:, :m], [m]).exact(z_test[:, :m], k=1).indices[:, 0]
    return _accuracy(data.y[found], data.y_test)


def _accuracy(predicted: Tensor, y: Tensor) -> float:
    return float((predicted == y).double().mean())


def _compare(data: _Split, setting: _Setting, seed: int) -> tuple[dict[str, float], Network]:
    """Nested networks against independent ones and against shortening an ordinary one, at every length."""
    dims = setting.dims
    nets = {
        "mrl": _fit(data, setting, dims, False, spawn_seed(seed, "mrl")),
        "mrl-e": _fit(data, setting, dims, True, spawn_seed(seed, "mrl-e")),
        **{f"ff{m}": _fit(data, setting, [m], False, spawn_seed(seed, "ff", m)) for m in dims},
    }
    with isolated_rng(spawn_seed(seed, "untrained")):
        nets["untrained"] = Network(setting.encoder(dims[-1]), MatryoshkaHead(dims, len(data.group)))
    z = {k: (_embed(net, data.x), _embed(net, data.x_test)) for k, net in nets.items()}
    out: dict[str, float] = {}

    full, full_test = z[f"ff{dims[-1]}"]
    cuts = {"pca": PCATruncator(dims[-1]), "random": RandomSubset(dims[-1], random_state=spawn_seed(seed, "subset"))}
    for name, cut in cuts.items():
        cut.fit(full.numpy())
        short, short_test = (torch.from_numpy(cut.transform(part.numpy())) for part in (full, full_test))
        z[name] = short, short_test
    for m in dims:
        z["independent"] = z[f"ff{m}"]
        z["truncated"] = (full, full_test)
        for name in ("mrl", "mrl-e", "independent", "truncated", "pca", "random", "untrained"):
            out[f"{name}/nn@{m}"] = _nearest(*z[name], data, m)
        for name in ("mrl", "mrl-e", "independent"):
            net = nets[f"ff{m}" if name == "independent" else name]
            predicted = _logits(net, z[name][1], m).argmax(1)
            out[f"{name}/linear@{m}"] = _accuracy(predicted, data.y_test)
    for name in ("mrl", "mrl-e", "independent"):
        out[f"{name}/linear@full"] = out[f"{name}/linear@{dims[-1]}"]
    return out, nets["mrl"]


@torch.no_grad()
def _adaptive(network: Network, data: _Split, setting: _Setting, seed: int) -> dict[str, float]:
    """Cascade, retrieval and superclasses of a nested network."""
    dims, full = setting.dims, setting.dims[-1]
    z, z_test = _embed(network, data.x), _embed(network, data.x_test)
    probs = torch.stack([_logits(network, z_test, m).softmax(1) for m in dims])
    order = torch.randperm(len(z_test), generator=generator(spawn_seed(seed, "halves")))
    fit, test = order.chunk(2)
    cascade = AdaptiveCascade(dims).fit(probs[:, fit], data.y_test[fit])
    chosen = cascade.predict(probs[:, test])
    fine = [p.argmax(1) for p in probs]
    coarse = dims.index(setting.coarse)
    out = {
        "cascade/accuracy": _accuracy(chosen.labels, data.y_test[test]),
        "cascade/full_accuracy": _accuracy(fine[-1][test], data.y_test[test]),
        "cascade/expected_dim": float(chosen.costs.double().mean()),
        "cascade/expected_fraction": float(chosen.costs.double().mean()) / full,
    }
    for name, j in (("short", coarse), ("full", -1)):
        out[f"{name}/fine"] = _accuracy(fine[j], data.y_test)
        out[f"{name}/super"] = _accuracy(data.group[fine[j]], data.group[data.y_test])

    retriever = AdaptiveRetriever(z, dims)
    k = min(200, len(z))
    stages = [m for m in dims if m > 8][-3:]
    lists = [k, 50, 10]
    exact = retriever.exact(z_test, 10).indices
    found = {
        "exact": exact,
        "adaptive": retriever.search(z_test, 8, full, k, 10).indices,
        "adaptive50": retriever.search(z_test, 8, full, 50, 10).indices,
        "funnel": retriever.funnel(z_test, 8, stages, lists).indices,
        "prefix": retriever.exact(z_test, 10, 8).indices,
    }
    for name, rows in found.items():
        out[f"{name}/top1"] = _accuracy(data.y[rows[:, 0]], data.y_test)
        out[f"{name}/same10"] = float((rows[:, :, None] == exact[:, None]).any(1).double().mean())
    out["adaptive/flop_ratio"] = retriever.flops(8, [full], [k]) / retriever.flops(full)
    out["funnel/flop_ratio"] = retriever.flops(8, stages, lists) / retriever.flops(full)
    return out


def _experiment(scale: Scale, seed: int) -> dict[str, float]:
    if scale == "gpu":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        glyphs = _glyphs.make_glyphs(spawn_seed(seed, "glyphs"), 50, 10, 100, device)
        data = _Split(*_glyphs.split(glyphs, 20), glyphs.group)
        setting = _Setting(
            nesting_dims(512), _glyphs.encoder, 12, lr=2e-3, coarse=8, device=device, precision="bf16-mixed"
        )
    elif scale == "small":
        data = _hierarchy(seed, 6000, 3000)
        setting = _Setting([2, 4, 8, 16, 32, 64], _mlp(64), 30)
    else:
        data = _hierarchy(seed, 800, 400)
        setting = _Setting([2, 4, 8, 16, 32, 64], _mlp(64), 2)
    out, network = _compare(data, setting, seed)
    out |= _adaptive(network, data, setting, seed)
    if scale == "gpu":
        out |= _glyphs.pair_experiment(glyphs, setting.dims, spawn_seed(seed, "pairs"), device)
        out |= _glyphs.wall_clock(network, glyphs, 1_000_000, spawn_seed(seed, "clock"))
    real = _Setting([2, 4, 8, 16, 32, 64], _mlp(64), 2 if scale == "smoke" else 30, batch=64)
    digits, _ = _compare(_digits(seed), real, spawn_seed(seed, "digits"))
    return out | {f"digits-{k}": v for k, v in digits.items()}


def _gap(a: str, b: str) -> Callable[[Values], float]:
    return lambda v: v[a] - v[b]


def _drop(kind: str) -> Callable[[Values], float]:
    return lambda v: v[f"full/{kind}"] - v[f"short/{kind}"]


_SHORTENED = {"truncated": "the plain prefix", "pca": "PCA", "random": "random coordinates"}

PAPER = describe(
    27,
    experiment=_experiment,
    seeds=5,
    claims=(
        *(
            Claim(
                f"short-prefix-{name}",
                f"at 8 dimensions 1-NN on nested prefixes beats {what} of an ordinary embedding by 12 points",
                _gap("mrl/nn@8", f"{name}/nn@8"),
                at_least=0.12,
            )
            for name, what in _SHORTENED.items()
        ),
        *(
            Claim(
                f"independent-{m}",
                f"1-NN at {m} dimensions is within {round(100 * slack)} points of a network trained for {m} alone",
                _gap(f"mrl/nn@{m}", f"independent/nn@{m}"),
                at_least=-slack,
            )
            for m, slack in ((8, 0.06), (16, 0.02), (32, 0.02), (64, 0.02))
        ),
        Claim(
            "full-size",
            "nesting costs at most 2 points of linear accuracy at full size",
            _gap("mrl/linear@full", "independent/linear@full"),
            at_least=-0.02,
        ),
        Claim(
            "cascade-accuracy",
            "the cascade is within 1.5 points of the full embedding",
            _gap("cascade/accuracy", "cascade/full_accuracy"),
            at_least=-0.015,
            note="four of five seeds are within; the thresholds are fitted on half of the test set and vary with it",
        ),
        Claim(
            "cascade-cost",
            "the cascade's expected dimension is at most half of the full one",
            lambda v: v["cascade/expected_fraction"],
            at_most=0.5,
        ),
        Claim(
            "adaptive-retrieval",
            "a shortlist of 200 by 8 dimensions, re-ranked at full size, keeps top-1 within 1 point of exact search",
            _gap("adaptive/top1", "exact/top1"),
            at_least=-0.01,
        ),
        Claim(
            "adaptive-retrieval-cost",
            "and needs at most a fifth of the multiply-adds",
            lambda v: v["adaptive/flop_ratio"],
            at_most=0.2,
        ),
        Claim(
            "funnel-retrieval",
            "funnel retrieval with shortlists of 200, 50 and 10 keeps top-1 within 1 point of exact search",
            _gap("funnel/top1", "exact/top1"),
            at_least=-0.01,
        ),
        Claim(
            "superclass",
            "a very short prefix tells superclasses better than classes, by 15 points",
            _gap("short/super", "short/fine"),
            at_least=0.15,
        ),
        Claim(
            "superclass-drop",
            "superclass accuracy falls less from full size to the short prefix than class accuracy does",
            lambda v: _drop("fine")(v) - _drop("super")(v),
            at_least=0.0,
        ),
        Claim(
            "digits-full-size",
            "on real digits nesting costs at most 2 points of linear accuracy at full size",
            _gap("digits-mrl/linear@full", "digits-independent/linear@full"),
            at_least=-0.02,
        ),
        Claim(
            "digits-short-prefix",
            "on real digits 1-NN on 4 nested dimensions beats the plain prefix of an ordinary embedding",
            _gap("digits-mrl/nn@4", "digits-truncated/nn@4"),
            at_least=0.0,
        ),
    ),
)
