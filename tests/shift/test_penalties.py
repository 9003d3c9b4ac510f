"""Penalties against their definitions, computed the slow way."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from holdfast.core.random import generator
from holdfast.shift import (
    GroupDROLoss,
    IRMv1Loss,
    VRExLoss,
    coral_penalty,
    irm_penalty,
    reverse_gradient,
    vrex_penalty,
)

G = generator(7)
LOGITS = torch.randn(24, 5, generator=G, dtype=torch.float64)
Y = torch.randint(5, (24,), generator=G)
E = torch.arange(24) % 3


def test_irm_penalty_is_the_squared_gradient_in_a_dummy_scale():
    expected = 0.0
    for e in range(3):
        scale = torch.ones((), dtype=torch.float64, requires_grad=True)
        risk = F.cross_entropy(LOGITS[e == E] * scale, Y[e == E])
        (gradient,) = torch.autograd.grad(risk, scale)
        expected += float(gradient**2) / 3
    assert float(irm_penalty(LOGITS, Y, E, 3, unbiased=False)) == pytest.approx(expected, abs=1e-12)


def test_unbiased_irm_penalty_multiplies_the_gradients_of_two_halves():
    expected = 0.0
    for e in range(3):
        rows = (e == E).nonzero()[:, 0]
        halves = []
        for half in (rows[::2], rows[1::2]):
            scale = torch.ones((), dtype=torch.float64, requires_grad=True)
            (gradient,) = torch.autograd.grad(F.cross_entropy(LOGITS[half] * scale, Y[half]), scale)
            halves.append(float(gradient))
        expected += halves[0] * halves[1] / 3
    assert float(irm_penalty(LOGITS, Y, E, 3)) == pytest.approx(expected, abs=1e-12)


def test_irm_loss_without_penalty_is_the_risk():
    assert float(IRMv1Loss(0.0)(LOGITS, Y, E)) == pytest.approx(float(F.cross_entropy(LOGITS, Y)))


def test_irm_loss_is_rescaled_by_a_large_penalty():
    loss = IRMv1Loss(1e6, unbiased=False)(LOGITS, Y, E)
    assert float(loss) == pytest.approx(float(irm_penalty(LOGITS, Y, E, 3, unbiased=False)), rel=1e-4)


def test_vrex_is_erm_at_beta_zero_and_free_at_equal_risks():
    losses = torch.tensor([1.0, 2.0, 2.0, 1.0])
    environment = torch.tensor([0, 0, 1, 1])
    assert float(VRExLoss(0.0)(losses, environment)) == pytest.approx(1.5)
    assert float(vrex_penalty(losses, environment, 2)[1]) == 0.0


def test_vrex_gradient_equals_finite_differences():
    losses = torch.randn(24, generator=generator(1), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: VRExLoss(3.0)(v, E, 3), losses)


def test_absent_environments_do_not_count():
    losses = torch.tensor([1.0, 3.0])
    assert vrex_penalty(losses, torch.tensor([0, 2]), 3)[1] == vrex_penalty(losses, torch.tensor([0, 1]), 2)[1]


def test_coral_penalty_is_the_mean_over_pairs():
    x = torch.randn(24, 4, generator=generator(3), dtype=torch.float64)
    total, pairs = 0.0, 0
    for a in range(3):
        for b in range(a + 1, 3):
            xa, xb = x[a == E], x[b == E]
            total += float(((xa.mean(0) - xb.mean(0)) ** 2).mean() + ((xa.T.cov() - xb.T.cov()) ** 2).mean())
            pairs += 1
    assert float(coral_penalty(x, E, 3)) == pytest.approx(total / pairs, abs=1e-12)


def test_coral_penalty_ignores_a_shift_common_to_all_environments():
    x = torch.randn(24, 4, generator=generator(3), dtype=torch.float64)
    assert float(coral_penalty(x + 5, E, 3)) == pytest.approx(float(coral_penalty(x, E, 3)), abs=1e-9)


def test_group_dro_weights_follow_the_exponentiated_gradient():
    loss = GroupDROLoss(3, step_size=0.5)
    losses = torch.tensor([1.0, 3.0, 2.0])
    value = loss(losses, torch.arange(3))
    expected = torch.softmax(0.5 * losses, 0)
    assert torch.allclose(loss.weights, expected)
    assert float(value) == pytest.approx(float((expected * losses).sum()), abs=1e-6)


def test_group_dro_keeps_its_weights_in_evaluation():
    loss = GroupDROLoss(2, step_size=1.0).eval()
    loss(torch.tensor([1.0, 3.0]), torch.arange(2))
    assert loss.weights.tolist() == [0.5, 0.5]


def test_reversed_gradient_of_a_reversed_gradient_is_the_gradient():
    x = torch.ones(3, requires_grad=True)
    reverse_gradient(reverse_gradient(x, 2.0), 0.5).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "make", [lambda: VRExLoss(-1.0), lambda: IRMv1Loss(-0.1), lambda: GroupDROLoss(0), lambda: GroupDROLoss(2, 0.0)]
)
def test_wrong_options_are_refused(make):
    with pytest.raises(ValueError, match="must be in"):
        make()
