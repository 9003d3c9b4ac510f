"""Zhang and Bottou, "Learning useful representations for shifting tasks and distributions", ICML 2023."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from holdfast.core.batching import Batches, BatchPlan
from holdfast.core.random import isolated_rng, spawn_seed
from holdfast.metrics.overlap import effective_rank, feature_overlap
from holdfast.nn.network import Network
from holdfast.papers import _multicue
from holdfast.papers._redundant_groups import Size, Task, draw_tasks
from holdfast.papers._stacked import JointStack, Stack, train_stack
from holdfast.papers.catalogue import describe
from holdfast.papers.record import Claim, Scale, Values
from holdfast.representation.concatenation import ConcatRepresentation, TwoStageFineTune
from holdfast.representation.multi_head_distillation import DistilledRepresentation, MultiHeadDistillation
from holdfast.representation.probe import LinearProbe
from holdfast.representation.rich import Featurizer

__all__ = ["PAPER"]


def _fit(source: Task, width: int, seeds: Sequence[int], epochs: int, weight_decay: float) -> list[Network]:
    stack = Stack([source.x.shape[1], width, width // 2, 2], seeds)
    train_stack(stack, source.x, source.y, seeds, epochs=epochs, batch=128, lr=3e-3, weight_decay=weight_decay)
    return stack.members()


@torch.no_grad()
def _probe(phi: nn.Module, tasks: Sequence[Task], tuned: bool = False) -> float:
    """Mean test accuracy over tasks of a linear probe on frozen features."""
    scores = []
    for task in tasks:
        z, z_test = phi(task.x).numpy(), phi(task.x_test).numpy()
        if tuned:
            probe = LinearProbe(standardize="zscore", random_state=0)
        else:
            mean, std = z.mean(0), z.std(0)
            std[std < 1e-12] = 1.0
            z, z_test = (z - mean) / std, (z_test - mean) / std
            probe = LogisticRegression(C=0.1, max_iter=500)
        scores.append(np.mean(probe.fit(z, task.y.numpy()).predict(z_test) == task.y_test.numpy()))
    return float(np.mean(scores))


def _accuracy(logits: Tensor, y: Tensor) -> float:
    return float((logits.argmax(-1) == y).double().mean())


def _cat(members: Sequence[nn.Module]) -> ConcatRepresentation:
    return ConcatRepresentation(members)


def _distill(teachers: Sequence[Featurizer], width: int, source: Task, epochs: int, seed: int) -> nn.Module:
    """Distil the teachers into one network of the given width, on the source inputs alone."""
    (student,) = Stack([source.x.shape[1], width, width // 2, 2], [spawn_seed(seed, "student", width)]).members()
    with isolated_rng(spawn_seed(seed, "heads", width)):
        loss = MultiHeadDistillation(student.encoder, teachers, temperature=4.0, dim=width // 2)
    plan = BatchPlan(len(source.x), 128, seed=spawn_seed(seed, "distill", width))
    batches = Batches(plan, lambda rows: source.x[rows])
    return DistilledRepresentation.train_from(
        loss, batches, steps=epochs * len(plan), lr=3e-3, weight_decay=1e-4, seed=seed
    )


def _fine_tune(singles: Sequence[Network], tasks: Sequence[Task], few: int, epochs: int, seed: int) -> dict[str, float]:
    """Fine-tune on few samples of every target: one network, the concatenation jointly, and in two stages."""
    targets = [replace(task, x=task.x[:few], y=task.y[:few]) for task in tasks]
    n, t = len(singles), len(targets)
    seeds = [spawn_seed(seed, "fine-tune", i) for i in range(n * t)]
    options = {"epochs": epochs, "batch": 64, "lr": 1e-3, "weight_decay": 1e-4}
    x, y = torch.stack([task.x for task in targets]), torch.stack([task.y for task in targets])

    joint = JointStack(Stack.of(list(singles) * t, 2, seeds), t, spawn_seed(seed, "joint"))
    train_stack(joint, x, y, seeds[:t], **options)
    alone = Stack.of(list(singles) * t, 2, seeds)
    train_stack(alone, x.repeat_interleave(n, 0), y.repeat_interleave(n, 0), seeds, **options)
    tuned = alone.members()
    out: dict[str, list[float]] = {"fine-tuned-single": [], "fine-tuned-joint": [], "fine-tuned-two-stage": []}
    with torch.no_grad():
        x_test = torch.stack([task.x_test for task in targets])
        joint_logits = joint(x_test)
    for g, task in enumerate(targets):
        own = tuned[g * n : (g + 1) * n]
        two_stage = TwoStageFineTune(own, lambda model, index: model, seed=spawn_seed(seed, "head", g))
        network = two_stage.fit(task.x, task.y)
        with torch.no_grad():
            out["fine-tuned-single"] += [_accuracy(net(task.x_test), task.y_test) for net in own]
            out["fine-tuned-joint"].append(_accuracy(joint_logits[g], task.y_test))
            out["fine-tuned-two-stage"].append(_accuracy(network(task.x_test), task.y_test))
    return {f"{k}/target": float(np.mean(v)) for k, v in out.items()}


def _xor_world(seed: int, size: Size) -> dict[str, float]:
    source, targets = draw_tasks(seed, size)
    seeds = [spawn_seed(seed, "episode", i) for i in range(8)]
    nets = _fit(source, 16, seeds, size.epochs, 0.1)
    phi = [Featurizer(net, name=f"episode {i}") for i, net in enumerate(nets)]
    out: dict[str, float] = {}
    for n in (1, 2, 4, 8):
        out[f"cat@{n}/target"] = float(np.mean([_probe(_cat(phi[i : i + n]), targets) for i in range(0, 8, n)]))
    first, cat = phi[:4], _cat(phi[:4])
    with torch.no_grad():
        out["single/source"] = float(np.mean([_accuracy(m.logits(source.x_test), source.y_test) for m in first]))
        mean = torch.stack([m.logits(source.x_test).softmax(1) for m in first]).mean(0)
        out["ensemble/source"] = _accuracy(mean, source.y_test)
        out["ensemble/target"] = float(
            np.mean(
                [
                    _accuracy(torch.stack([m.logits(t.x_test).softmax(1) for m in first]).mean(0), t.y_test)
                    for t in targets
                ]
            )
        )
        z = [m(source.x_test) for m in first]
    out["single/target"] = float(np.mean([_probe(m, targets) for m in first]))
    out["cat/source"], out["cat/target"] = _probe(cat, [source]), _probe(cat, targets)
    out["cat2/target"] = _probe(_cat(phi[:2]), targets)
    out["single-tuned/target"] = _probe(first[0], targets, tuned=True)
    out["cat-tuned/target"] = _probe(cat, targets, tuned=True)
    out["single/effective_rank"] = float(np.mean([effective_rank(part, center=True) for part in z]))
    out["cat/effective_rank"] = effective_rank(torch.cat(z, 1), center=True)
    overlap = [feature_overlap(z[0], other) for other in z[1:]]
    out["single/cka"] = float(np.mean([o["cka"] for o in overlap]))
    out["single/r2"] = float(np.mean([o["r2_12"] for o in overlap]))

    for name, width in (("wide", 64), ("wide-44", 44), ("wide-half", 32)):
        (net,) = _fit(source, width, [spawn_seed(seed, name)], size.epochs, 0.1)
        out[f"{name}/source"] = _accuracy(net(source.x_test), source.y_test)
        out[f"{name}/target"] = _probe(Featurizer(net), targets)
        if name == "wide":
            out["wide-tuned/target"] = _probe(Featurizer(net), targets, tuned=True)
    joint_seeds = [spawn_seed(seed, "parallel", i) for i in range(4)]
    joint = JointStack(Stack([16, 16, 8, 2], joint_seeds), 1, spawn_seed(seed, "parallel"))
    train_stack(joint, source.x, source.y, joint_seeds[:1], epochs=size.epochs, batch=128, lr=3e-3, weight_decay=0.1)
    out["parallel/target"] = _probe(_cat(joint.stack.members()), targets)
    out["untrained/target"] = _probe(_cat(Stack([16, 16, 8, 2], seeds[:4]).members()), targets)
    for width in (64, 32, 16):
        student = _distill(first, width, source, size.distill_epochs, seed)
        out[f"distill{width}/target"] = _probe(student, targets)
    out["distilled/target"], out["erm-as-distilled/target"] = out["distill64/target"], out["wide/target"]
    return out | _fine_tune(nets[:4], targets, size.few, size.epochs, seed)


def _softer_world(seed: int, size: Size) -> dict[str, float]:
    """Each group is wrong with probability 0.1, so that one group no longer suffices, and weight decay is weak."""
    source, targets = draw_tasks(spawn_seed(seed, "softer"), size, flip=0.1)
    nets = _fit(source, 16, [spawn_seed(seed, "softer", i) for i in range(4)], size.epochs, 1e-3)
    (wide,) = _fit(source, 64, [spawn_seed(seed, "softer", "wide")], size.epochs, 1e-3)
    with torch.no_grad():
        logits = [net(source.x_test) for net in nets]
        mean = torch.stack([part.softmax(1) for part in logits]).mean(0)
    return {
        "soft-single/source": float(np.mean([_accuracy(part, source.y_test) for part in logits])),
        "soft-ensemble/source": _accuracy(mean, source.y_test),
        "soft-single/target": float(np.mean([_probe(Featurizer(net), targets) for net in nets])),
        "soft-cat/target": _probe(_cat([Featurizer(net) for net in nets]), targets),
        "soft-wide/target": _probe(Featurizer(wide), targets),
    }


def _digits(seed: int, epochs: int) -> dict[str, float]:
    """Source: digits 0 to 4. Target: 5 to 9, with ten labels per class."""
    x, y = load_digits(return_X_y=True)
    x, y = torch.from_numpy((x / 16).astype(np.float32)), torch.from_numpy(y)
    low = y < 5
    parts = train_test_split(
        torch.arange(len(y))[~low].numpy(),
        train_size=50,
        stratify=y[~low].numpy(),
        random_state=spawn_seed(seed, "digits"),
    )
    few, rest = map(torch.from_numpy, parts)
    target = Task(x[few], y[few] - 5, x[rest], y[rest] - 5)
    out = {}
    for name, sizes, n in (("single", [64, 32, 16, 5], 4), ("wide", [64, 128, 64, 5], 1)):
        seeds = [spawn_seed(seed, "digits", name, i) for i in range(n)]
        stack = Stack(sizes, seeds)
        train_stack(stack, x[low], y[low], seeds, epochs=epochs, batch=64, lr=3e-3, weight_decay=0.1)
        members = stack.members()
        out[f"digits-{name}/target"] = float(np.mean([_probe(Featurizer(net), [target]) for net in members]))
        if n > 1:
            out["digits-cat/target"] = _probe(_cat([Featurizer(net) for net in members]), [target])
    return out


def _experiment(scale: Scale, seed: int) -> dict[str, float]:
    if scale == "gpu":
        return _multicue.experiment(seed, "cuda" if torch.cuda.is_available() else "cpu")
    size = Size() if scale == "small" else Size(300, 100, 50, 200, 2, 2, 2)
    return _xor_world(seed, size) | _softer_world(seed, size) | _digits(seed, size.epochs)


def _gap(a: str, b: str) -> Callable[[Values], float]:
    return lambda v: v[a] - v[b]


PAPER = describe(
    23,
    experiment=_experiment,
    seeds=8,
    claims=(
        Claim(
            "source",
            "on the source task the concatenation of 4 is within 1 point of a single network",
            lambda v: abs(v["cat/source"] - v["single/source"]),
            at_most=0.01,
        ),
        Claim(
            "target-single",
            "on target tasks the concatenation of 4 beats a single network by 5 points",
            _gap("cat/target", "single/target"),
            at_least=0.05,
            null=0.0,
        ),
        Claim(
            "target-wide",
            "and one network with as many features by 2 points",
            _gap("cat/target", "wide/target"),
            at_least=0.02,
            null=0.0,
        ),
        Claim(
            "target-half",
            "and one network of half that width by 3 points",
            _gap("cat/target", "wide-half/target"),
            at_least=0.03,
            null=0.0,
        ),
        *(
            Claim(
                f"growth-{b}",
                f"target accuracy does not fall from {a} to {b} members",
                _gap(f"cat@{b}/target", f"cat@{a}/target"),
                at_least=-0.005,
            )
            for a, b in ((1, 2), (2, 4), (4, 8))
        ),
        Claim(
            "distilled",
            "a network distilled from 4 beats the same network trained on labels by 1.5 points on target tasks",
            _gap("distilled/target", "erm-as-distilled/target"),
            at_least=0.015,
            null=0.0,
        ),
        Claim(
            "two-stage-joint",
            "fine-tuning in two stages is no worse than fine-tuning the concatenation jointly",
            _gap("fine-tuned-two-stage/target", "fine-tuned-joint/target"),
            at_least=0.0,
            note="joint tuning can favour the member that knows the task, which the mean of four heads dilutes",
        ),
        Claim(
            "two-stage-single",
            "and beats fine-tuning a single network by 1 point",
            _gap("fine-tuned-two-stage/target", "fine-tuned-single/target"),
            at_least=0.01,
            null=0.0,
        ),
    ),
)
