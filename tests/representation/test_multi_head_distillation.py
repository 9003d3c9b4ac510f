from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from holdfast.core.batching import Batches, BatchPlan
from holdfast.nn.network import Network
from holdfast.representation.multi_head_distillation import (
    DistilledRepresentation,
    MultiHeadDistillation,
    multi_head_distillation_loss,
)

X = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))


def _net(seed: int, width: int = 6, classes: int = 3) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Network(nn.Sequential(nn.Linear(4, width), nn.ReLU()), nn.Linear(width, classes))


def _logits(seed: int, n: int = 3) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(10, 4, generator=rng, dtype=torch.float64) for _ in range(n)]


def test_student_that_reproduces_its_teachers_has_zero_loss_and_zero_gradient() -> None:
    teachers = [_net(0), _net(1, width=9)]

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList(copy.deepcopy(t.encoder) for t in teachers)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([part(x) for part in self.parts], 1)

    heads = [nn.Linear(15, 3) for _ in teachers]
    with torch.no_grad():
        for head, teacher, columns in zip(heads, teachers, (slice(0, 6), slice(6, 15))):
            head.weight.zero_()
            head.weight[:, columns] = teacher.head.weight
            head.bias.copy_(teacher.head.bias)
    loss = MultiHeadDistillation(Both(), teachers, temperature=3.0, heads=heads)
    value = loss(X)
    value.backward()
    assert abs(value.item()) < 1e-6
    gradients = [p.grad for p in loss.parameters() if p.requires_grad]
    assert gradients
    assert max(float(g.abs().max()) for g in gradients) < 1e-6


def test_gradient_size_hardly_depends_on_a_large_temperature() -> None:
    teacher, start = _logits(0, 1), _logits(1, 1)[0]
    norms = []
    for temperature in (20.0, 50.0, 200.0):
        student = start.clone().requires_grad_()
        multi_head_distillation_loss([student], teacher, temperature).backward()
        norms.append(float(student.grad.norm()))
    assert norms[1] == pytest.approx(norms[0], rel=0.1)
    assert norms[2] == pytest.approx(norms[1], rel=0.1)
    # Its limit is the distance of the centred logits, divided by the number of classes and the batch.
    difference = start - teacher[0]
    limit = (difference - difference.mean(1, keepdim=True)).norm() / 4 / 10
    assert norms[2] == pytest.approx(float(limit), rel=0.02)


def test_permuting_teachers_permutes_heads() -> None:
    s, t = _logits(0), _logits(1)
    order = [2, 0, 1]
    permuted = multi_head_distillation_loss([s[i] for i in order], [t[i] for i in order], 4.0)
    torch.testing.assert_close(permuted, multi_head_distillation_loss(s, t, 4.0))
    assert not torch.allclose(multi_head_distillation_loss([s[i] for i in order], t, 4.0), permuted)


def test_one_teacher_is_ordinary_distillation() -> None:
    (s,), (t,) = _logits(0, 1), _logits(1, 1)
    for temperature in (1.0, 4.0):
        plain = temperature**2 * F.kl_div(
            F.log_softmax(s / temperature, 1), F.softmax(t / temperature, 1), reduction="batchmean"
        )
        torch.testing.assert_close(multi_head_distillation_loss([s], [t], temperature), plain)


def test_teachers_never_change() -> None:
    teacher = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    loss = MultiHeadDistillation(nn.Linear(4, 8), [teacher], dim=8, n_classes=3)
    before = copy.deepcopy(teacher.state_dict())
    batches = Batches(BatchPlan(40, 10, seed=0), lambda rows: X[rows])
    DistilledRepresentation.train_from(loss, batches, steps=8, lr=1e-1)
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())


def test_distilled_student_reads_like_every_teacher() -> None:
    teachers = [_net(s) for s in range(3)]
    with torch.no_grad():
        for t in teachers:
            t.head.weight *= 10
    student = _net(9, width=64).encoder
    loss = MultiHeadDistillation(student, teachers, temperature=2.0, dim=64)
    batches = Batches(BatchPlan(40, 40, seed=0), lambda rows: X[rows])
    phi = DistilledRepresentation.train_from(loss, batches, steps=400, lr=1e-2, weight_decay=0)
    for teacher, head in zip(teachers, loss.heads):
        agreement = (head(phi(X)).argmax(1) == teacher(X).argmax(1)).float().mean()
        assert agreement > 0.9
    assert not any(p.requires_grad for p in phi.parameters())


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_temperature_must_be_positive(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be in"):
        MultiHeadDistillation(nn.Linear(4, 8), [_net(0)], temperature, dim=8)


def test_heads_with_other_class_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="teacher 0 has 3 classes, its head 5"):
        MultiHeadDistillation(nn.Linear(4, 8), [_net(0)], heads=[nn.Linear(8, 5)])
    with pytest.raises(ValueError, match="2 teachers, 1 heads"):
        MultiHeadDistillation(nn.Linear(4, 8), [_net(0), _net(1)], heads=[nn.Linear(8, 3)])
    with pytest.raises(ValueError, match="logits of teacher 0 have shape"):
        multi_head_distillation_loss([torch.zeros(2, 3)], [torch.zeros(2, 4)])


def test_missing_teachers_and_unknown_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one teacher"):
        MultiHeadDistillation(nn.Linear(4, 8), [], dim=8)
    with pytest.raises(ValueError, match="pass dim"):
        MultiHeadDistillation(nn.Linear(4, 8), [_net(0)])
    with pytest.raises(ValueError, match="classes of teacher 0 is unknown"):
        MultiHeadDistillation(nn.Linear(4, 8), [nn.Linear(4, 3)], dim=8)
