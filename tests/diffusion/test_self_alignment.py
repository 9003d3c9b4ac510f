from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from holdfast.core.random import isolated_rng
from holdfast.core.steps import StepInfo
from holdfast.diffusion import DDPMSchedule, Denoiser, DiffusionObjective, DiT, LinearPath, Output, train_diffusion
from holdfast.diffusion.self_alignment import SelfAlignmentLoss, feature_distance, teacher_times

X = torch.rand(48, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
Y = torch.arange(48) % 3


def make(seed: int = 0, **options) -> Denoiser:
    with isolated_rng(seed):
        model = Denoiser(DiT(1, 8, 4, 16, 3, 2, **options), LinearPath())
        for p in model.parameters():  # away from adaLN-Zero, where blocks are the identity
            p.data += 0.05 * torch.randn_like(p)
    return model


def info(step: int = 0, seed: int = 0) -> StepInfo:
    return StepInfo(step, 10, 0, torch.Generator().manual_seed(seed))


def test_teacher_times_are_nearer_to_the_data_by_half_the_gap_on_average():
    t = torch.full((40_000,), 0.7)
    gap = t - teacher_times(t, 0.2, generator=torch.Generator().manual_seed(0))
    assert float(gap.min()) >= 0
    assert float(gap.max()) <= 0.2 + 1e-6
    assert abs(float(gap.mean()) - 0.1) < 3 * 0.2 / 12**0.5 / 200
    assert (teacher_times(torch.rand(1000), 0.9, generator=torch.Generator().manual_seed(1)) >= 0).all()


def test_teacher_times_of_a_discrete_path_are_whole_steps_from_one():
    path = DDPMSchedule(1000)
    t = torch.randint(1, 1000, (20_000,), generator=torch.Generator().manual_seed(0)).float()
    earlier = teacher_times(t, 0.2, path=path, generator=torch.Generator().manual_seed(1))
    assert (earlier == earlier.round()).all()
    assert (earlier <= t).all()
    assert earlier.min() >= 1
    assert earlier.max() <= 999
    far = t > 300
    gaps = (t - earlier)[far]
    assert set(gaps.unique().tolist()) <= set(range(200))
    assert abs(float(gaps.mean()) - 99.5) < 3 * 200 / 12**0.5 / int(far.sum()) ** 0.5


def test_a_teacher_equal_to_the_student_at_the_same_place_and_time_gives_no_loss():
    for distance in ("l1", "l2", "smooth_l1", "cosine"):
        model = make()
        term = SelfAlignmentLoss(2, 2, width=16, max_gap=0.0, head=None, distance=distance, allow_same_block=True)
        objective = DiffusionObjective(model, [term], teacher_decay=0.0).train()
        model.train()
        loss = objective(model, {"x": X}, info())["self-alignment"]
        assert abs(float(loss)) < (1e-6 if distance == "cosine" else 1e-12)


def test_weight_zero_trains_to_the_same_bits_as_no_term():
    runs = []
    for terms in ([], [SelfAlignmentLoss(1, 2, width=16, weight=0.0)], [SelfAlignmentLoss(1, 2, width=16, weight=0.5)]):
        model = make(num_classes=3, class_dropout=0.5)
        train_diffusion(model, X, Y, steps=4, batch_size=16, lr=1e-3, terms=terms, device="cpu", seed=3)
        runs.append(torch.cat([p.flatten() for p in model.parameters()]))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_the_teacher_gets_no_gradient_and_follows_by_the_average_alone():
    model = make()
    objective = DiffusionObjective(model, [SelfAlignmentLoss(1, 2, width=16)], teacher_decay=0.5)
    objective(model, {"x": X}, info())["loss"].backward()
    assert all(p.grad is None and not p.requires_grad for p in objective.teacher.parameters())
    before = copy.deepcopy(objective.teacher.teacher.state_dict())
    with torch.no_grad():
        for p in model.parameters():
            p += 1.0
    objective(model, {"x": X}, info(step=1))
    m = 2 / 11  # the warm-up's first momentum
    for name, p in objective.teacher.teacher.named_parameters():
        torch.testing.assert_close(p, m * before[name] + (1 - m) * model.get_parameter(name), rtol=0, atol=1e-6)
    assert not objective.train().teacher.teacher.training


def test_the_teacher_stops_at_its_block_with_the_tap_of_a_whole_pass():
    model, t = make().eval(), torch.rand(48)
    whole = model(X, t, taps=(2,))
    part = model(X, t, taps=(2,), stop_at=2)
    assert part.pred is None
    assert torch.equal(whole.taps[2], part.taps[2])


def test_the_teacher_sees_the_labels_that_the_student_saw():
    seen = []

    class Watch(nn.Module):
        depth, class_dropout, null_class = 2, 1.0, 3

        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(()))

        def forward(self, x, t, y=None, *, taps=(), stop_at=None):
            seen.append(y.clone())
            tokens = x.flatten(2).transpose(1, 2) * self.w
            return Output(None if stop_at else self.w * x, dict.fromkeys(taps, tokens))

    model = Denoiser(Watch(), LinearPath())
    term = SelfAlignmentLoss(1, 2, width=1)
    DiffusionObjective(model, [term])(model, {"x": X, "y": Y}, info())
    assert len(seen) == 2
    assert torch.equal(seen[0], seen[1])
    assert (seen[0] == 3).all()


def test_smooth_l1_is_torchs_and_continuous_at_beta():
    p, z = torch.randn(4, 5, 6), torch.randn(4, 5, 6)
    assert abs(float(feature_distance(p, z, "smooth_l1") - F.smooth_l1_loss(p, z, beta=0.05))) < 1e-7
    zero = torch.zeros(1, 1, 1, dtype=torch.float64)
    below, above = (feature_distance(zero + 0.05 + d, zero, "smooth_l1") for d in (-1e-9, 1e-9))
    assert abs(float(above - below)) < 1e-8


def test_cosine_is_taken_over_channels():
    p, z = torch.randn(2, 5, 6), torch.randn(2, 5, 6)
    order = torch.randperm(5)
    one = F.cosine_similarity(p, z, dim=-1)
    assert torch.allclose(F.cosine_similarity(p[:, order], z[:, order], dim=-1), one[:, order])
    scaled = p.clone()
    scaled[:, 2] *= 7
    assert torch.allclose(feature_distance(scaled, z, "cosine"), feature_distance(p, z, "cosine"), atol=1e-6)


def test_feature_maps_of_unequal_resolution_meet_on_the_coarser_grid():
    class Maps(nn.Module):
        depth = 2

        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(()))

        def forward(self, x, t, y=None, *, taps=(), stop_at=None):
            maps = {1: x * self.w, 2: F.avg_pool2d(x, 2).repeat(1, 2, 1, 1)}
            return Output(None if stop_at else self.w * x, {b: maps[b] for b in taps})

    model = Denoiser(Maps(), LinearPath())
    term = SelfAlignmentLoss(1, 2, width=1, teacher_width=2)
    out = DiffusionObjective(model, [term])(model, {"x": X}, info())
    assert torch.isfinite(out["loss"])


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("must come after", lambda: SelfAlignmentLoss(2, 2, width=4)),
        ("student_block must be in", lambda: SelfAlignmentLoss(0, 2, width=4)),
        ("max_gap must be in", lambda: SelfAlignmentLoss(1, 2, width=4, max_gap=1.0)),
        ("beta must be in", lambda: SelfAlignmentLoss(1, 2, width=4, beta=0.0)),
        ("need one width", lambda: SelfAlignmentLoss(1, 2, width=4, teacher_width=8, head=None)),
        ("reads block 9", lambda: DiffusionObjective(make(), [SelfAlignmentLoss(9, 10, width=16)])),
        ("blocks are numbered", lambda: make()(X, 0.5, taps=(7,))),
        (
            "ema must|momentum must",
            lambda: DiffusionObjective(make(), [SelfAlignmentLoss(1, 2, width=16)], teacher_decay=1.5),
        ),
    ],
)
def test_what_is_refused(message, call):
    with pytest.raises(ValueError, match=message):
        call()


def test_no_registered_teacher_is_named():
    model = make()
    term = SelfAlignmentLoss(1, 2, width=16)
    objective = DiffusionObjective(model, [term])
    objective.teacher = None
    with pytest.raises(ValueError, match="none is registered"):
        objective(model, {"x": X}, info())
