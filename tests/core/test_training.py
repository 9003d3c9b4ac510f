"""Laws of the training loop."""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from holdfast.core.batching import Batches, BatchPlan
from holdfast.core.checkpoint import CheckpointError, atomic_write, checkpoint_path
from holdfast.core.ema import WeightAverage
from holdfast.core.optimizers import make_optimizer
from holdfast.core.schedules import make_schedule
from holdfast.core.training import NonFiniteLossError, StepInfo, TrainResult, train


def network(dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(123)
    return nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 3))


def batches(n: int = 90, size: int = 20, seed: int = 100) -> Batches:
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 5, generator=rng)
    y = (x @ torch.randn(5, 3, generator=rng)).argmax(1)
    return Batches(BatchPlan(n, size, seed=seed), lambda rows: (x[rows], y[rows]))


def cross_entropy(net: nn.Module, batch, info: StepInfo) -> torch.Tensor:
    return F.cross_entropy(net(batch[0]), batch[1])


def noisy(net: nn.Module, batch, info: StepInfo) -> dict[str, torch.Tensor]:
    noise = torch.randn(batch[0].shape, generator=info.generator)
    loss = F.cross_entropy(net(batch[0] + 0.1 * noise), batch[1])
    return {"loss": loss, "noise": noise.mean()}


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(u, v) for u, v in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def fit(net: nn.Module, loss=cross_entropy, source=None, **options) -> TrainResult:
    source = batches() if source is None else source
    return train(net, loss, source, **{"steps": 40, "device": "cpu", "seed": 100, **options})


class Stop(Exception):
    """Stands for a process that is killed."""


def killed_at(step: int, loss):
    def stops(net, batch, info):
        if info.step == step:
            raise Stop
        return loss(net, batch, info)

    return stops


# -- agreement with plain PyTorch ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("sgd", lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01)),
        ("adam", lambda p: torch.optim.Adam(p, lr=0.05, weight_decay=0.01)),
        ("adamw", lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.01)),
    ],
)
def test_equals_a_loop_written_by_hand(name, make):
    # No normalisation here: a bias before one has a gradient of pure rounding noise, which Adam would magnify.
    source = batches()
    mine, theirs = (nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 3)) for _ in "ab")
    theirs.load_state_dict(mine.state_dict())
    fit(mine, source=source, steps=12, optimizer=name, lr=0.05, weight_decay=0.01, clip_norm=0.5)
    opt, done = make(theirs.parameters()), 0
    for epoch in range(3):
        for x, y in source.epoch(epoch):
            if done < 12:
                opt.zero_grad()
                F.cross_entropy(theirs(x), y).backward()
                nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
                opt.step()
                done += 1
    for a, b in zip(mine.parameters(), theirs.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_accumulating_two_half_batches_equals_one_whole_batch():
    x, y = torch.randn(40, 5), torch.randint(0, 3, (40,))
    halves = Batches(BatchPlan(40, 10, seed=100), lambda rows: (x[rows], y[rows]))

    class Wholes:
        def __len__(self):
            return 2

        def epoch(self, e):
            parts = list(halves.epoch(e))
            return iter([tuple(map(torch.cat, zip(*parts[i : i + 2]))) for i in (0, 2)])

    a, b = nn.Linear(5, 3), nn.Linear(5, 3)
    b.load_state_dict(a.state_dict())
    fit(a, source=halves, steps=6, accumulate=2)
    fit(b, source=Wholes(), steps=6)
    torch.testing.assert_close(a.weight, b.weight, rtol=1e-5, atol=1e-6)


# -- randomness ------------------------------------------------------------------------------------------------


def test_same_seed_gives_the_same_bits_and_another_seed_does_not():
    a, b, c = network(0.5), network(0.5), network(0.5)
    ra = fit(a, noisy, log_every=1)
    torch.rand(7)
    rb = fit(b, noisy, log_every=1)
    fit(c, noisy, seed=101)
    assert ra.history == rb.history
    assert same(a, b)
    assert not same(a, c)


def test_callers_random_state_is_untouched():
    net = network(0.5)
    before = torch.get_rng_state()
    fit(net, noisy, validate=lambda m: float(torch.rand(())), validate_every=3)
    assert torch.equal(before, torch.get_rng_state())


def test_validation_that_draws_numbers_does_not_change_training():
    a, b = network(0.5), network(0.5)
    # A constant score keeps the first weights as best, so the histories are compared, not the modules.
    ra = fit(a, noisy, log_every=1)
    rb = fit(b, noisy, log_every=1, validate=lambda m: 0 * float(torch.rand(())), validate_every=3)
    assert [h["loss"] for h in ra.history] == [h["loss"] for h in rb.history]


def test_micro_batches_of_a_step_draw_different_noise():
    seen = []

    def loss(net, batch, info):
        seen.append(float(torch.rand((), generator=info.generator)))
        return cross_entropy(net, batch, info)

    fit(network(), loss, steps=5, accumulate=3)
    assert len(set(seen)) == 15


# -- resume ----------------------------------------------------------------------------------------------------


class Unseeded:
    """Draws its order from the global generator, as many a loader does, and cannot start midway."""

    def __init__(self):
        self.x, self.y = torch.randn(90, 5), torch.randint(0, 3, (90,))

    def __len__(self):
        return 5

    def epoch(self, e):
        for rows in torch.randperm(90).split(18):
            yield self.x[rows] + 0.01 * torch.randn(len(rows), 5), self.y[rows]


@pytest.mark.parametrize("source", [batches(), Unseeded()], ids=["plan", "global generator"])
@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "sgd", "schedule": "cosine", "warmup": 5, "ema": 0.9},
        {"optimizer": "adamw", "accumulate": 3, "clip_norm": 1.0, "schedule": "step", "milestones": [0.5]},
        {"optimizer": "adam", "schedule": "linear", "ema": 0.99, "validate_every": 4, "validate": True},
    ],
    ids=["sgd", "adamw", "validated"],
)
def test_resumed_run_equals_uninterrupted_run_bit_for_bit(tmp_path, source, options):
    def options_anew():
        scores = {"validate": lambda m: -float(m[0].weight.square().sum())} if "validate" in options else {}
        return {**options, **scores, "lr": 0.02, "log_every": 3}

    whole, parts = network(0.4), network(0.4)
    expected = fit(whole, noisy, source, **options_anew())
    with pytest.raises(Stop):
        fit(
            parts,
            killed_at(23, noisy),
            source,
            checkpoint=tmp_path,
            checkpoint_every=7,
            **options_anew(),
        )
    parts = network(0.4)
    got = fit(parts, noisy, source, checkpoint=tmp_path, resume=True, **options_anew())
    assert got.history == expected.history
    assert (got.best_step, got.best_score, got.steps) == (expected.best_step, expected.best_score, 40)
    assert same(whole, parts)


def test_resuming_a_finished_run_returns_it(tmp_path):
    a, b = network(), network()
    first = fit(a, ema=0.9, checkpoint=tmp_path)
    second = fit(b, killed_at(0, noisy), ema=0.9, checkpoint=tmp_path, resume=True)
    assert second.history == first.history
    assert same(a, b)


def test_settings_given_as_numpy_scalars_can_be_checkpointed_and_resumed(tmp_path):
    options = {"lr": np.float64(0.01), "steps": np.int64(20), "weight_decay": np.float32(0.1), "ema": np.float64(0.9)}
    first = fit(network(), checkpoint=tmp_path, **options)
    assert fit(network(), checkpoint=tmp_path, resume=True, **options).history == first.history


def test_resume_without_a_checkpoint_starts_at_the_beginning(tmp_path):
    assert fit(network(), checkpoint=tmp_path / "new", resume=True).steps == 40


def test_resume_refuses_other_settings_and_names_them(tmp_path):
    fit(network(), checkpoint=tmp_path)
    with pytest.raises(CheckpointError, match=r"lr=0\.001 there, 0\.5 here"):
        fit(network(), checkpoint=tmp_path, resume=True, lr=0.5)


def test_resume_refuses_another_module(tmp_path):
    fit(network(), checkpoint=tmp_path)
    with pytest.raises(CheckpointError, match="does not fit"):
        fit(nn.Linear(5, 3), checkpoint=tmp_path, resume=True)


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"not a checkpoint", lambda b: b""])
def test_damaged_checkpoint_is_refused(tmp_path, damage):
    fit(network(), checkpoint=tmp_path)
    path = checkpoint_path(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match="delete it"):
        fit(network(), checkpoint=tmp_path, resume=True)


def test_checkpoint_that_would_run_code_is_refused(tmp_path):
    torch.save({"format": 1, "code": os.system}, tmp_path / "last.pt")
    with pytest.raises(CheckpointError):
        fit(network(), checkpoint=tmp_path, resume=True)


def test_failed_write_keeps_the_old_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "a"
    atomic_write(path, lambda f: f.write(b"old"))

    def fails(f: io.BufferedIOBase) -> None:
        f.write(b"ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        atomic_write(path, fails)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


# -- losses that are not finite --------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_loss_names_the_step_and_keeps_the_last_good_checkpoint(tmp_path, bad):
    def loss(net, batch, info):
        return cross_entropy(net, batch, info) * (bad if info.step == 12 else 1)

    net = network()
    with pytest.raises(NonFiniteLossError, match=r"at step 13 of 40 \(epoch 2\).*last\.pt") as caught:
        fit(net, loss, checkpoint=tmp_path, checkpoint_every=5)
    assert caught.value.step == 13
    assert caught.value.checkpoint == checkpoint_path(tmp_path)
    assert all(bool(torch.isfinite(p).all()) for p in net.parameters())
    kept = torch.load(checkpoint_path(tmp_path), weights_only=True)
    assert kept["done"] == 10
    assert fit(network(), checkpoint=tmp_path, resume=True).steps == 40


def test_non_finite_weights_never_reach_a_checkpoint(tmp_path):
    class Explode(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            return g * math.inf

    def loss(net, batch, info):
        value = cross_entropy(net, batch, info)
        return Explode.apply(value) if info.step == 9 else value

    with pytest.raises(NonFiniteLossError, match="the weights are not finite at step 10"):
        fit(network(), loss, checkpoint=tmp_path, checkpoint_every=5)
    kept = torch.load(checkpoint_path(tmp_path), weights_only=True)
    assert kept["done"] == 5


# -- averages, validation, schedules ---------------------------------------------------------------------------


def test_average_follows_its_recursion():
    net, seen = nn.Linear(5, 3, bias=False), []

    def loss(net, batch, info):
        seen.append(net.weight.detach().clone())
        return cross_entropy(net, batch, info)

    fit(net, loss, steps=8, ema=0.6, lr=0.1)
    last = nn.Linear(5, 3, bias=False)
    last.load_state_dict({"weight": seen[0]})
    fit(last, steps=8, lr=0.1)
    mean = seen[0]
    for n, live in enumerate([*seen[1:], last.weight.detach()], start=1):
        decay = min(0.6, (1 + n) / (10 + n))
        mean = decay * mean + (1 - decay) * live
    torch.testing.assert_close(net.weight.detach(), mean)


def test_average_leaves_infinite_buffers_alone_and_swap_is_its_own_inverse():
    net = nn.Linear(2, 2)
    net.register_buffer("mask", torch.tensor([0.0, -math.inf]))
    average = WeightAverage(net, 0.5)
    net.weight.data.add_(1)
    average.update()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    average.swap()
    assert not torch.equal(net.weight, before["weight"])
    average.swap()
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_best_weights_are_restored_and_patience_stops():
    net, held = network(), {}

    def validate(m):
        assert not m.training
        held[len(held) + 1] = m[0].weight.detach().clone()
        return -abs(len(held) - 3.0)

    result = fit(net, validate=validate, validate_every=2, patience=2)
    assert (result.best_step, result.best_score, result.steps, result.stopped_early) == (6, 0.0, 10, True)
    assert torch.equal(net[0].weight, held[3])


def test_validation_sees_the_averaged_weights():
    a, b, seen = network(), network(), []
    fit(a, steps=10, ema=0.9)
    fit(b, steps=10, ema=0.9, validate=lambda m: seen.append(m[0].weight.clone()) or 1.0, validate_every=10)
    assert torch.equal(seen[-1], a[0].weight)


def test_frozen_submodule_keeps_its_mode_through_validation():
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.teacher, self.net = nn.Dropout(), nn.Linear(5, 3)

        def train(self, mode=True):
            super().train(mode)
            self.teacher.eval()
            return self

        def forward(self, x):
            return self.net(x)

    modes = []

    def loss(net, batch, info):
        modes.append((net.training, net.teacher.training))
        return cross_entropy(net, batch, info)

    fit(Frozen(), loss, steps=5, validate=lambda m: 0.0, validate_every=1)
    assert set(modes) == {(True, False)}


def test_learning_rates_of_the_history_are_those_of_the_schedule():
    result = fit(network(), steps=20, lr=0.3, min_lr=0.03, schedule="cosine", warmup=0.25, log_every=1)
    for t, record in enumerate(result.history):
        if t < 5:
            expected = 0.3 * (t + 1) / 5
        else:
            expected = 0.03 + (0.3 - 0.03) * (1 + math.cos(math.pi * (t - 5) / 15)) / 2
        assert record["lr"] == pytest.approx(expected, rel=1e-12)


def test_step_schedule_multiplies_by_gamma_at_each_milestone():
    rate = make_schedule("step", 10, milestones=[0.3, 6], gamma=0.5)
    assert [rate(t) for t in range(10)] == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25]


def test_each_group_keeps_its_own_learning_rate_under_a_schedule():
    def groups(net):
        return [{"params": net[0].parameters(), "lr": 0.0}, {"params": net[4].parameters()}]

    net = network()
    first, last = net[0].weight.clone(), net[4].weight.clone()
    fit(net, param_groups=groups, schedule="cosine", optimizer="sgd", lr=0.1)
    assert torch.equal(first, net[0].weight)
    assert not torch.equal(last, net[4].weight)


def test_norms_and_biases_are_spared_the_decay_when_asked():
    groups = make_optimizer(network(), weight_decay=0.1, decay_norms_and_biases=False).param_groups
    assert {p.ndim for p in groups[0]["params"]} == {2}
    assert groups[1]["weight_decay"] == 0
    assert {p.ndim for p in groups[1]["params"]} == {1}


def test_loss_with_parameters_is_trained_and_resumed_with_the_module(tmp_path):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, net, batch, info):
            if info.step == self.__dict__.get("stop", -1):
                raise Stop
            return F.cross_entropy(net(batch[0]) * self.scale, batch[1])

    whole, parts = Scaled(), Scaled()
    fit(network(), whole)
    parts.stop = 25
    with pytest.raises(Stop):
        fit(network(), parts, checkpoint=tmp_path, checkpoint_every=10)
    again = Scaled()
    fit(network(), again, checkpoint=tmp_path, resume=True)
    assert whole.scale != 1
    assert whole.scale == again.scale


def test_history_means_cover_every_loss_once():
    losses = []

    def loss(net, batch, info):
        value = cross_entropy(net, batch, info)
        losses.append(value.item())
        return {"loss": value, "twice": 2 * value}

    history = fit(network(), loss, steps=10, log_every=4).history
    assert [h["step"] for h in history] == [4, 8, 10]
    for record, part in zip(history, (losses[:4], losses[4:8], losses[8:])):
        assert record["loss"] == pytest.approx(sum(part) / len(part))
        assert record["twice"] == pytest.approx(2 * record["loss"])


def test_progress_bar_is_off_by_default_and_says_what_it_counts(capsys):
    fit(network())
    assert capsys.readouterr() == ("", "")
    fit(network(), progress="bar of the test")
    out, err = capsys.readouterr()
    assert out == ""
    assert "bar of the test" in err
    assert "40/40" in err
    assert "steps/s" in err


# -- precision and processes -----------------------------------------------------------------------------------


def test_bfloat16_runs_the_whole_loss_under_autocast_and_keeps_the_weights_in_32_bits():
    seen = []

    def loss(net, batch, info):
        seen.append(net[4](torch.zeros(2, 16)).dtype)
        return cross_entropy(net, batch, info)

    net = network()
    result = fit(net, loss, precision="bf16-mixed", log_every=1, lr=0.02)
    assert set(seen) == {torch.bfloat16}
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert result.history[-1]["loss"] < result.history[0]["loss"]


SCRIPT = textwrap.dedent(
    """
    import json, os, sys, torch
    from torch import nn
    from holdfast.core.batching import Batches, BatchPlan
    from holdfast.core.training import NonFiniteLossError, train

    torch.manual_seed(5)
    x, y = torch.randn(64, 4), torch.randn(64, 1)
    source = Batches(BatchPlan(64, 16, seed=100), lambda rows: (x[rows], y[rows]))
    folder = sys.argv[1]

    class Stop(Exception):
        pass

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head, self.spare = nn.Linear(4, 7), nn.Linear(7, 1), nn.Linear(7, 1)
        def features(self, x):
            return self.body(x).tanh()

    def loss(net, batch, info):
        return (net.head(net.features(batch[0])) - batch[1]).square().mean()

    def stops(net, batch, info):
        if info.step == 23:
            raise Stop
        return loss(net, batch, info)

    def bad(net, batch, info):
        mine = info.step == 20 and os.environ.get("LOCAL_RANK", "0") == "1"
        return loss(net, batch, info) * (float("nan") if mine else 1.0)

    def validate(net):
        return -float((net.head(net.features(x)) - y).square().mean())

    def net():
        torch.manual_seed(6)
        return Net()

    def gap(a, b):
        return max(float((u - v).detach().abs().max()) for u, v in zip(a.parameters(), b.parameters()))

    base = dict(steps=30, optimizer="adamw", lr=0.02, schedule="cosine", device="cpu", seed=100, accumulate=2,
                clip_norm=1.0, ema=0.9, log_every=10, validate=validate, validate_every=6)
    one = net()
    alone = train(one, loss, source, **base)
    found = {}
    for strategy in ("ddp_find_unused_parameters_true", "fsdp"):
        options = dict(base, devices=2, strategy=strategy)
        kept = os.path.join(folder, strategy)
        two, again = net(), net()
        together = train(two, loss, source, **options)
        try:
            train(net(), stops, source, checkpoint=kept, checkpoint_every=7, **options)
        except Stop:
            pass
        resumed = train(again, loss, source, checkpoint=kept, resume=True, **options)
        losses = [abs(a["loss"] - b["loss"]) for a, b in zip(together.history, alone.history, strict=True)]
        try:
            train(net(), bad, source, checkpoint=os.path.join(kept, "bad"), checkpoint_every=5,
                  **dict(options, accumulate=1))
        except NonFiniteLossError as e:
            found[strategy] = {"bad step": e.step}
        found[strategy] |= {
            "weights": gap(one, two), "losses": max(losses), "score": together.best_score - alone.best_score,
            "resumed": gap(two, again), "history": resumed.history == together.history,
            "plain": all(type(p) is nn.Parameter for p in two.parameters()),
            "kept": torch.load(os.path.join(kept, "bad", "last.pt"), weights_only=True)["done"],
        }
    with open(os.path.join(folder, "rank" + os.environ["LOCAL_RANK"]), "w") as f:
        json.dump(found, f)
    """
)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    (folder / "script.py").write_text(SCRIPT)
    run = subprocess.run(
        [sys.executable, str(folder / "script.py"), str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return [json.loads((folder / f"rank{r}").read_text()) for r in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp_find_unused_parameters_true", "fsdp"])
def test_two_processes_train_as_one_does(two_processes, strategy):
    for found in two_processes:
        assert found[strategy]["weights"] < 1e-5
        assert found[strategy]["losses"] < 1e-5
        assert abs(found[strategy]["score"]) < 1e-5
        assert found[strategy]["plain"]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp_find_unused_parameters_true", "fsdp"])
def test_two_processes_resume_bit_for_bit(two_processes, strategy):
    for found in two_processes:
        assert found[strategy]["resumed"] == 0
        assert found[strategy]["history"]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp_find_unused_parameters_true", "fsdp"])
def test_two_processes_stop_together_when_one_loss_is_bad(two_processes, strategy):
    for found in two_processes:
        assert (found[strategy]["bad step"], found[strategy]["kept"]) == (21, 20)


# -- refusals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be in"),
        ({"lr": 0.0}, "lr must be in"),
        ({"optimizer": "lion"}, "optimizer must be one of"),
        ({"schedule": "sawtooth"}, "schedule must be one of"),
        ({"schedule": "step"}, "needs milestones"),
        ({"warmup": 50}, "warmup must not exceed"),
        ({"min_lr": 1.0}, "min_lr must be in"),
        ({"ema": 1.0}, "ema must be in"),
        ({"precision": "8"}, "precision must be one of"),
        ({"precision": "16-mixed"}, "16-mixed"),
        ({"strategy": "dp"}, "strategy must be one of"),
        ({"device": "cuda:99"}, "was asked for"),
        ({"devices": 2}, "needs strategy"),
        ({"device": "abacus"}, "device must be"),
        ({"patience": 2}, "patience needs validate"),
        ({"resume": True}, "need checkpoint"),
        ({"accumulate": 0}, "accumulate must be in"),
        ({"clip_norm": 0.0}, "clip_norm must be in"),
        ({"validate": lambda m: math.nan}, "finite score"),
    ],
)
def test_bad_options_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        fit(network(), **options)


def test_bad_losses_and_batches_are_refused():
    with pytest.raises(ValueError, match="must be a scalar"):
        fit(network(), lambda m, b, i: F.cross_entropy(m(b[0]), b[1], reduction="none"))
    with pytest.raises(ValueError, match="no gradient"):
        fit(network(), lambda m, b, i: torch.zeros(()))
    with pytest.raises(TypeError, match='holds "loss"'):
        fit(network(), lambda m, b, i: {"nll": torch.zeros(())})
    with pytest.raises(TypeError, match=r"epoch\(e\)"):
        fit(network(), source=[1, 2])
    with pytest.raises(ValueError, match="nothing to train"):
        fit(network().requires_grad_(False))

    class Short:
        def __len__(self):
            return 5

        def epoch(self, e):
            return iter(list(batches().epoch(e))[:2])

    with pytest.raises(ValueError, match="ended after 2 batches"):
        fit(network(), source=Short())
