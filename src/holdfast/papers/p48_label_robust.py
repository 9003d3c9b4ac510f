"""Zhu et al., "Label Distributionally Robust Losses for Multi-class Classification", ICML 2023."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import linprog
from scipy.stats import rankdata
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.core.batching import Batches, BatchPlan
from holdfast.core.random import generator, isolated_rng, spawn_seed
from holdfast.core.training import StepInfo, train
from holdfast.data.shifts.label_noise import next_class_noise, uniform_label_noise
from holdfast.papers.catalogue import describe
from holdfast.papers.record import Claim, Scale, Values
from holdfast.shift.adaptive_label_robust import AdaptiveLDR
from holdfast.shift.label_robust import ldr_kl, normalize_scores
from holdfast.shift.noisy_label_losses import generalized_cross_entropy, mean_absolute_error

__all__ = ["PAPER"]

_LOSSES = ("ce", "mae", "gce", "ldr", "aldr1", "aldr10")
_MARGIN = 0.1


@dataclass(frozen=True)
class _World:
    """Training rows with their true labels, a test set, and the noises that labels are seen through."""

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    n_classes: int
    noises: dict[str, Callable[[Tensor, int], Tensor]]


@dataclass(frozen=True)
class _Setting:
    """How the networks are made and trained; every learning rate is tried for every loss and noise."""

    network: Callable[[int, int], nn.Module]
    """From the number of networks and of classes to a module (n, rows, ...) -> (n, rows, classes)."""
    epochs: int
    lrs: tuple[float, ...]
    batch: int = 64
    weight_decay: float = 5e-4
    device: str = "cpu"


class _StackedMLP(nn.Module):
    """Many one-hidden-layer tanh networks of the same start as one batched product."""

    def __init__(self, n: int, width: int, hidden: int, n_classes: int) -> None:
        super().__init__()
        first, second = nn.Linear(width, hidden), nn.Linear(hidden, n_classes)
        self.w1, self.w2 = (nn.Parameter(layer.weight.T.detach().repeat(n, 1, 1)) for layer in (first, second))
        self.b1, self.b2 = (nn.Parameter(layer.bias.detach().repeat(n, 1, 1)) for layer in (first, second))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(torch.baddbmm(self.b1, x.expand(len(self.w1), -1, -1), self.w1))
        return torch.baddbmm(self.b2, h, self.w2)


class _StackedCNN(nn.Module):
    """Many small convolutional networks of the same start, as grouped convolutions."""

    def __init__(self, n: int, n_classes: int) -> None:
        super().__init__()
        self.n = n
        layers: list[nn.Module] = []
        for a, b in ((1, 16), (16, 32), (32, 64)):
            one = nn.Conv2d(a, b, 3, stride=2, padding=1)
            many = nn.Conv2d(a * n, b * n, 3, stride=2, padding=1, groups=n)
            many.load_state_dict({k: v.repeat(n, *(1,) * (v.ndim - 1)) for k, v in one.state_dict().items()})
            layers += [many, nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = _StackedMLP(n, 64 * 16, 128, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.body(x.repeat(1, self.n, 1, 1))
        features = maps.unflatten(1, (self.n, 64)).transpose(0, 1).flatten(2)
        h = torch.relu(torch.baddbmm(self.head.b1, features, self.head.w1))
        return torch.baddbmm(self.head.b2, h, self.head.w2)


class _Grid(nn.Module):
    """One network for every learning rate, loss and noise, trained on the same batches in one pass.

    Networks are ordered by learning rate, then loss, then noise. A network's gradient does not depend on the others,
    because the sum of the mean losses is minimised.
    """

    noisy: Tensor

    def __init__(self, setting: _Setting, n_classes: int, noisy: Tensor) -> None:
        super().__init__()
        self.lrs, self.n_noises = setting.lrs, len(noisy)
        make = lambda: setting.network(len(_LOSSES) * self.n_noises, n_classes)  # noqa: E731
        start = make().state_dict()
        self.stacks = nn.ModuleList(make() for _ in setting.lrs)
        for stack in self.stacks:
            stack.load_state_dict(start)
        self.register_buffer("noisy", noisy)
        # A row of the training set is a different example for every network that sees it.
        tables = len(setting.lrs) * self.n_noises * noisy.shape[1]
        self.aldr = nn.ModuleDict(
            {f"aldr{t}": AdaptiveLDR(tables, n_classes, float(t), 2.0, _MARGIN, normalize="l1") for t in (1, 10)}
        )

    def forward(self, batch: tuple[Tensor, Tensor], info: StepInfo) -> Tensor:
        x, rows = batch
        scores = torch.stack([stack(x) for stack in self.stacks])
        scores = scores.unflatten(1, (len(_LOSSES), self.n_noises))
        y = self.noisy[:, rows]
        target = y.expand(len(self.lrs), -1, -1).flatten()
        table = torch.arange(len(self.lrs) * self.n_noises, device=rows.device)[:, None] * self.noisy.shape[1]
        index = (table + rows).flatten()
        total = scores.new_zeros(())
        for i, name in enumerate(_LOSSES):
            total = total + self._loss(name, scores[:, i].flatten(0, 2), target, index)
        # Each loss is a mean over its networks' rows; undo it, so that every network sees its own mean.
        return total * len(self.lrs) * self.n_noises

    def _loss(self, name: str, f: Tensor, y: Tensor, index: Tensor) -> Tensor:
        if name in self.aldr:
            return self.aldr[name](f, y, index)
        if name == "ldr":
            return ldr_kl(normalize_scores(f, "softplus_mean"), y, 1.0, _MARGIN)
        if name == "gce":
            return generalized_cross_entropy(f, y, 0.7)
        return mean_absolute_error(f, y) if name == "mae" else F.cross_entropy(f, y)

    def groups(self) -> list[dict[str, Any]]:
        return [{"params": list(s.parameters()), "lr": lr} for s, lr in zip(self.stacks, self.lrs)]

    @torch.inference_mode()
    def accuracy(self, x: Tensor, y: Tensor) -> Tensor:
        """Accuracy (learning rates, losses, noises) on labels (rows,) or (noises, rows)."""
        device = self.noisy.device
        hits = []
        for part, labels in zip(x.split(1000), y.split(1000, dim=-1)):
            f = torch.stack([stack(part.to(device)) for stack in self.stacks])
            right = f.unflatten(1, (len(_LOSSES), self.n_noises)).argmax(-1) == labels.to(device)
            hits.append(right.float().cpu())
        return torch.cat(hits, -1).mean(-1)


def _train(setting: _Setting, world: _World, noisy: Tensor, rows: Tensor, seed: int) -> _Grid:
    """Train the whole grid on the given rows."""
    with isolated_rng(spawn_seed(seed, "weights")):
        grid = _Grid(setting, world.n_classes, noisy)
    plan = BatchPlan(len(rows), setting.batch, seed=spawn_seed(seed, "batches"))
    x = world.x.to(setting.device)
    train(
        grid,
        lambda module, batch, info: module(batch, info),
        Batches(plan, lambda part: (x[rows[part]], rows[part].to(setting.device))),
        steps=setting.epochs * len(plan),
        optimizer="sgd",
        lr=max(setting.lrs),
        momentum=0.9,
        weight_decay=setting.weight_decay,
        param_groups=lambda module: grid.groups(),
        schedule="step",
        milestones=(0.5, 0.75),
        device=setting.device,
        seed=spawn_seed(seed, "steps"),
    )
    return grid


def _noise_grid(setting: _Setting, world: _World, seed: int) -> dict[str, float]:
    """Tune every loss on a validation fold with noisy labels, retrain on all rows, and test on clean labels."""
    noisy = torch.stack([f(world.y, spawn_seed(seed, name)) for name, f in world.noises.items()])
    order = torch.randperm(len(world.y), generator=generator(spawn_seed(seed, "fold")))
    held, rest = order[: len(order) // 5], order[len(order) // 5 :]
    tuned = _train(setting, world, noisy, rest, seed).accuracy(world.x[held], noisy[:, held])
    final = _train(setting, world, noisy, torch.arange(len(world.y)), seed).accuracy(world.x_test, world.y_test)
    values: dict[str, float] = {}
    best, chosen = tuned.argmax(0), tuned.amax(0)
    for j, noise in enumerate(world.noises):
        for i, loss in enumerate(_LOSSES):
            values[f"{loss}/acc@{noise}"] = float(final[best[i, j], i, j])
            for r, lr in enumerate(setting.lrs):
                values[f"{loss}/acc@{noise},lr={lr:g}"] = float(final[r, i, j])
            values[f"{loss}/worst_lr@{noise}"] = float(final[:, i, j].min())
        # The adaptive loss with its starting temperature tuned as well.
        winner = max(("aldr1", "aldr10"), key=lambda name: float(chosen[_LOSSES.index(name), j]))
        values[f"aldr/acc@{noise}"] = values[f"{winner}/acc@{noise}"]
    values["oracle/acc"] = values["ce/acc@none"]
    ranks = [rankdata([-values[f"{loss}/acc@{noise}"] for loss in _LOSSES]) for noise in world.noises]
    values |= {f"{loss}/mean_rank": float(r) for loss, r in zip(_LOSSES, np.mean(ranks, axis=0))}
    return values


def _risk_minimiser(q: Tensor, temperature: float, margin: float) -> Tensor:
    """Scores that minimise the risk under posteriors ``q``, by L-BFGS on scores in units of the temperature."""
    g = torch.zeros_like(q).requires_grad_()
    solver = torch.optim.LBFGS(
        [g], max_iter=2000, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe", history_size=20
    )

    def risk() -> Tensor:
        solver.zero_grad()
        loss = ldr_kl(temperature * g, q, temperature, margin, "sum") / temperature
        loss.backward()
        return loss

    solver.step(risk)
    return temperature * g.detach()


def _order_agreement(scores: Tensor, q: Tensor) -> float:
    """Share of class pairs that scores and posteriors put in the same order."""
    i, j = torch.triu_indices(q.shape[1], q.shape[1], 1)
    same = (scores[:, i] - scores[:, j]) * (q[:, i] - q[:, j]) > 0
    return float(same.double().mean())


def _constant_excess(q: np.ndarray, margin: float = 1.0) -> float:
    """Risk of constant scores at temperature 0 above the least possible, by linear programming."""
    k = len(q)
    rows = []
    for y in range(k):
        for j in range(k):
            if j != y:
                row = np.zeros(2 * k)
                row[j], row[y], row[k + y] = 1, -1, -1
                rows.append(row)
    bounds = [(0, 0)] + [(None, None)] * (k - 1) + [(0, None)] * k
    cost = np.concatenate([np.zeros(k), q])
    best = linprog(cost, A_ub=np.array(rows), b_ub=np.full(len(rows), -margin), bounds=bounds)
    return margin - float(best.fun)


def _consistency(seed: int, n: int) -> dict[str, float]:
    """Whether risk minimisers keep the order of posteriors over 6 classes, and how temperature 0 fails."""
    rng = generator(spawn_seed(seed, "posteriors"))
    q = torch.randn(n, 6, generator=rng, dtype=torch.float64).softmax(1)
    values = {}
    for temperature in (0.1, 1.0, 10.0):
        values[f"ldr/order@{temperature:g}"] = _order_agreement(_risk_minimiser(q, temperature, 0.0), q)
        values[f"ldr_margin/order@{temperature:g}"] = _order_agreement(_risk_minimiser(q, temperature, _MARGIN), q)
    # A leading class below one half, the others at random; and one above it for contrast.
    rest = torch.rand(5, generator=rng, dtype=torch.float64) + 0.5
    rest = (rest / rest.sum()).numpy()
    values["crammer_singer/excess_below_half"] = _constant_excess(np.concatenate([[0.45], 0.55 * rest]))
    values["crammer_singer/excess_above_half"] = _constant_excess(np.concatenate([[0.6], 0.4 * rest]))
    return values


def _uniform(rate: float, n_classes: int) -> Callable[[Tensor, int], Tensor]:
    return lambda y, seed: uniform_label_noise(y, rate, n_classes, seed=seed)


def _digits(seed: int) -> _World:
    x, y = load_digits(return_X_y=True)
    split = train_test_split(
        (x / 16).astype(np.float32), y, test_size=0.5, stratify=y, random_state=spawn_seed(seed, "split")
    )
    x, x_test, y, y_test = map(torch.from_numpy, split)
    noises = {"none": lambda y, seed: y, "0.6": _uniform(0.6, 10)}
    return _World(x, y, x_test, y_test, 10, noises)


def _fashion(seed: int, n_train: int) -> _World:
    from holdfast.data.named import load_named

    sets = load_named("fashion-mnist")
    x = torch.from_numpy(np.array(sets.x)).float().reshape(len(sets), 1, 28, 28) / 255
    y = torch.as_tensor(np.unique(np.asarray(sets.y), return_inverse=True)[1])
    order = torch.randperm(len(y), generator=generator(spawn_seed(seed, "split")))
    fit, test = order[:n_train], order[n_train : n_train + 10_000]
    noises: dict[str, Callable[[Tensor, int], Tensor]] = {"none": lambda y, seed: y}
    noises |= {str(rate): _uniform(rate, 10) for rate in (0.3, 0.6, 0.9)}
    noises["next0.3"] = lambda y, seed: next_class_noise(y, 0.3, 10, seed=seed)
    return _World(x[fit], y[fit], x[test], y[test], 10, noises)


def _experiment(scale: Scale, seed: int) -> dict[str, float]:
    """Losses under label noise at two learning rates, and the order of risk minimisers."""
    if scale == "gpu":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        setting = _Setting(_StackedCNN, epochs=10, lrs=(0.03, 0.3), batch=256, device=device)
        return _noise_grid(setting, _fashion(seed, 20_000), seed) | _consistency(seed, 50)
    small = scale == "small"
    network: Callable[[int, int], nn.Module] = lambda n, k: _StackedMLP(n, 64, 64, k)  # noqa: E731
    setting = _Setting(network, epochs=60 if small else 3, lrs=(0.03, 0.3))
    return _noise_grid(setting, _digits(seed), seed) | _consistency(seed, 50 if small else 5)


def _gap(a: str, b: str) -> Callable[[Values], float]:
    return lambda v: v[a] - v[b]


def _least(keys: Sequence[str]) -> Callable[[Values], float]:
    return lambda v: min(v[k] for k in keys)


PAPER = describe(
    48,
    experiment=_experiment,
    claims=(
        Claim(
            "adaptive-noise",
            "at 60% uniform label noise the adaptive loss beats cross-entropy by 2 points",
            _gap("aldr1/acc@0.6", "ce/acc@0.6"),
            at_least=0.02,
            null=0.0,
            note="ahead on all five seeds, but by less than claimed on three: cross-entropy, tuned as well, takes the "
            "small learning rate, at which it loses little",
        ),
        Claim(
            "fixed-noise",
            "and so does the loss at temperature 1 with margin 0.1 on normalised scores",
            _gap("ldr/acc@0.6", "ce/acc@0.6"),
            at_least=0.02,
            null=0.0,
            note="the gain over a tuned cross-entropy is half a point; it is large only at the larger learning rate",
        ),
        Claim(
            "clean",
            "on clean labels the adaptive loss costs at most 1.5 points",
            _gap("ce/acc@none", "aldr1/acc@none"),
            at_most=0.015,
        ),
        Claim(
            "stability",
            "at 60% noise its accuracy at the worse learning rate is 15 points above cross-entropy's",
            _gap("aldr1/worst_lr@0.6", "ce/worst_lr@0.6"),
            at_least=0.15,
        ),
        Claim(
            "top-k",
            "risk minimisers order the classes exactly as the posterior does, at temperatures 0.1, 1 and 10",
            _least([f"ldr/order@{t}" for t in ("0.1", "1", "10")]),
            at_least=1.0,
        ),
        Claim(
            "crammer-singer",
            "at temperature 0 with no class above one half, constant scores are optimal: the order is lost",
            lambda v: v["crammer_singer/excess_below_half"],
            at_most=1e-9,
        ),
    ),
    seeds=5,
)
