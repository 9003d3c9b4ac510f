import math

import pytest
import torch
from torch.nn import functional as F

from holdfast.core.random import generator
from holdfast.shift import noisy_label_losses as losses
from holdfast.shift.noisy_label_losses import NOISY_LABEL_LOSSES


def draw(n=40, k=6, seed=100):
    g = generator(seed)
    return 2 * torch.randn(n, k, generator=g, dtype=torch.float64), torch.randint(k, (n,), generator=g)


def entropy(w):
    return -torch.xlogy(w, w).sum(1)


def over_labels(loss, f, **options):
    return sum(loss(f, torch.full((len(f),), j), reduction="none", **options) for j in range(f.shape[1]))


@pytest.mark.parametrize("name", sorted(NOISY_LABEL_LOSSES))
def test_every_loss_is_non_negative_shift_invariant_and_smooth_enough_to_differentiate(name):
    loss = NOISY_LABEL_LOSSES[name]
    f, y = draw()
    value = loss(f, y, reduction="none")
    assert value.shape == (40,)
    assert float(value.min()) >= -1e-12
    torch.testing.assert_close(loss(f + 3, y, reduction="none"), value)
    torch.testing.assert_close(loss(f, y), value.mean())
    f.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: loss(s, y), (f,), atol=1e-5)


@pytest.mark.parametrize("name", sorted(NOISY_LABEL_LOSSES))
def test_every_loss_is_least_and_finite_for_a_sure_right_answer(name):
    loss = NOISY_LABEL_LOSSES[name]
    sure = torch.tensor([[200.0, 0.0, -5.0]], requires_grad=True)
    right, wrong = loss(sure, torch.tensor([0])), loss(sure, torch.tensor([1]))
    assert float(right.detach()) == pytest.approx(0, abs=1e-6)
    assert float(wrong.detach()) > float(right.detach())
    (right + wrong).backward()
    assert bool(torch.isfinite(sure.grad).all())


@pytest.mark.parametrize(
    "loss",
    [
        losses.mean_absolute_error,
        losses.reverse_cross_entropy,
        losses.normalized_cross_entropy,
        losses.robust_log_loss,
        losses.nce_rce,
    ],
)
def test_symmetric_losses_sum_to_a_constant_over_labels(loss):
    f, _ = draw()
    total = over_labels(loss, f)
    torch.testing.assert_close(total, total[:1].expand(40))


def test_robust_log_loss_constant_is_k_log_of_one_plus_inverse_alpha():
    f, _ = draw()
    total = over_labels(losses.robust_log_loss, f, alpha=0.45)
    torch.testing.assert_close(total, torch.full_like(total, 6 * math.log(1.45 / 0.45)))


def test_generalised_cross_entropy_runs_from_cross_entropy_to_half_the_absolute_error():
    f, y = draw()
    torch.testing.assert_close(losses.generalized_cross_entropy(f, y, 1e-9), F.cross_entropy(f, y))
    torch.testing.assert_close(losses.generalized_cross_entropy(f, y, 1.0), losses.mean_absolute_error(f, y) / 2)


def test_truncated_loss_is_the_plain_one_above_the_threshold_and_flat_below():
    f, y = draw()
    p = f.softmax(1).gather(1, y[:, None]).squeeze(1)
    ours = losses.truncated_generalized_cross_entropy(f, y, 0.7, 0.3, reduction="none")
    plain = losses.generalized_cross_entropy(f, y, 0.7, reduction="none")
    torch.testing.assert_close(ours[p > 0.3], plain[p > 0.3])
    torch.testing.assert_close(ours[p <= 0.3], torch.full_like(ours[p <= 0.3], (1 - 0.3**0.7) / 0.7))


def test_jensen_shannon_tends_to_cross_entropy_and_matches_its_definition():
    f, y = draw()
    torch.testing.assert_close(losses.jensen_shannon(f, y, 1e-6), F.cross_entropy(f, y), rtol=1e-4, atol=1e-4)
    p, e, pi = f.softmax(1), F.one_hot(y, 6).double(), 0.3
    m = pi * e + (1 - pi) * p
    expected = (entropy(m) - pi * entropy(e) - (1 - pi) * entropy(p)) / (-(1 - pi) * math.log(1 - pi))
    torch.testing.assert_close(losses.jensen_shannon(f, y, pi, reduction="none"), expected)


def test_hinges_agree_with_torch():
    f, y = draw()
    torch.testing.assert_close(losses.weston_watkins(f, y), F.multi_margin_loss(f, y) * 6)
    gaps = (1 + f - f.gather(1, y[:, None])).scatter(1, y[:, None], 0)
    torch.testing.assert_close(losses.crammer_singer(f, y, reduction="none"), gaps.amax(1))


def test_squared_error_is_the_distance_to_the_one_hot_label():
    f, y = draw()
    expected = (f.softmax(1) - F.one_hot(y, 6)).square().sum(1).mean()
    torch.testing.assert_close(losses.mean_squared_error(f, y), expected)


def test_combinations_are_sums_of_their_parts():
    f, y = draw()
    nce = losses.normalized_cross_entropy(f, y)
    torch.testing.assert_close(losses.nce_aul(f, y, 2, 3), 2 * nce + 3 * losses.asymmetric_unhinged(f, y))
    other = losses.asymmetric_generalized_cross_entropy(f, y)
    torch.testing.assert_close(losses.nce_agce(f, y, 2, 3), 2 * nce + 3 * other)
    ce, rce = F.cross_entropy(f, y), losses.reverse_cross_entropy(f, y)
    torch.testing.assert_close(losses.symmetric_cross_entropy(f, y, 0.5, 2.0), 0.5 * ce + 2 * rce)


@pytest.mark.parametrize("name", sorted(NOISY_LABEL_LOSSES))
def test_bad_scores_and_labels_are_refused(name):
    loss = NOISY_LABEL_LOSSES[name]
    f, y = draw()
    with pytest.raises(ValueError, match="finite"):
        loss(f * math.nan, y)
    with pytest.raises(ValueError, match=r"\[0, 6\)"):
        loss(f, y + 6)
    with pytest.raises(ValueError, match="at least 2 classes"):
        loss(f[:, :1], y * 0)


@pytest.mark.parametrize(
    ("match", "call"),
    [
        ("q must", lambda f, y: losses.generalized_cross_entropy(f, y, 0.0)),
        ("threshold", lambda f, y: losses.truncated_generalized_cross_entropy(f, y, 0.7, 1.0)),
        ("log_zero", lambda f, y: losses.reverse_cross_entropy(f, y, 1.0)),
        ("weight", lambda f, y: losses.jensen_shannon(f, y, 1.0)),
        ("alpha", lambda f, y: losses.robust_log_loss(f, y, 0.0)),
        ("a must", lambda f, y: losses.asymmetric_unhinged(f, y, 1.0)),
    ],
)
def test_bad_parameters_are_refused(match, call):
    with pytest.raises(ValueError, match=match):
        call(*draw())
