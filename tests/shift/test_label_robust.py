import math

import pytest
import torch
from torch.nn import functional as F

from holdfast.core.random import generator
from holdfast.shift.label_robust import ldr_kl, ldr_weights, normalize_scores, score_gaps

INF = math.inf


def draw(n=64, k=7, scale=3.0, seed=100, dtype=torch.float64):
    g = generator(seed)
    f = scale * torch.randn(n, k, generator=g, dtype=dtype)
    return f, torch.randint(k, (n,), generator=g)


def test_temperature_one_is_cross_entropy_minus_log_k_with_its_gradient():
    f, y = draw(dtype=torch.float32)
    a, b = f.clone().requires_grad_(), f.clone().requires_grad_()
    ours, theirs = ldr_kl(a, y), F.cross_entropy(b, y) - math.log(7)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    ours.backward()
    theirs.backward()
    torch.testing.assert_close(a.grad, b.grad, atol=1e-7, rtol=0)


@pytest.mark.parametrize("margin", [0.0, 0.1, 2.0])
def test_cold_and_hot_limits(margin):
    f, y = draw()
    gaps = score_gaps(f, y, margin)
    cold = ldr_kl(f, y, 1e-3, margin, "none")
    assert (cold - gaps.amax(1)).abs().max() <= 1e-3 * math.log(7) + 1e-12
    torch.testing.assert_close(ldr_kl(f, y, 0, margin, "none"), gaps.amax(1), atol=0, rtol=0)
    torch.testing.assert_close(ldr_kl(f, y, INF, margin, "none"), gaps.mean(1), atol=0, rtol=0)
    hot = ldr_kl(f.float(), y, 1e4, margin, "none")
    torch.testing.assert_close(hot.double(), gaps.mean(1), rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("temperature", [1e2, 1e4, 1e8, 1e20])
def test_hot_temperatures_do_not_cancel_in_single_precision(temperature):
    f, y = draw()
    # Second-order expansion of the entropic mean; the next term is smaller by scale / temperature.
    gaps = score_gaps(f, y)
    expected = gaps.mean(1) + gaps.var(1, unbiased=False) / (2 * temperature)
    ours = ldr_kl(f.float(), y, temperature, reduction="none").double()
    third = (gaps - gaps.mean(1, keepdim=True)).abs().amax(1) ** 3 / temperature**2
    assert bool(((ours - expected).abs() <= third + 2e-6 * gaps.abs().amax(1)).all())


def test_one_temperature_per_row_mixes_every_regime():
    f, y = draw(n=6)
    lam = torch.tensor([0.0, 1e-30, 0.5, 1.0, 1e9, INF], dtype=torch.float64)
    rows = torch.stack([ldr_kl(f[i : i + 1], y[i : i + 1], float(t), 0.2) for i, t in enumerate(lam)])
    torch.testing.assert_close(ldr_kl(f, y, lam, 0.2, "none"), rows)
    f.requires_grad_()
    ldr_kl(f, y, lam, 0.2).backward()
    assert bool(torch.isfinite(f.grad).all())


def test_tiny_temperature_neither_overflows_nor_loses_the_gradient():
    f, y = draw(dtype=torch.float32)
    for t in (1e-2, 1e-10, 1e-38):
        a = f.clone().requires_grad_()
        ldr_kl(a, y, t, 0.1, "sum").backward()
        assert float(a.grad.abs().sum(1).max()) <= 2 + 1e-5
        assert float(a.grad.sum(1).abs().max()) < 1e-6


def test_value_falls_with_temperature_between_the_mean_and_the_largest_gap():
    f, y = draw()
    gaps = score_gaps(f, y, 0.1)
    ladder = [0, 0.01, 0.1, 0.5, 1, 3, 10, 100, 1e3, INF]
    values = torch.stack([ldr_kl(f, y, t, 0.1, "none") for t in ladder])
    assert bool((values.diff(dim=0) <= 1e-12).all())
    assert bool((values <= gaps.amax(1) + 1e-12).all())
    assert bool((values >= gaps.mean(1) - 1e-12).all())
    for t, v in zip(ladder[:-1], values):
        assert bool((v >= gaps.amax(1) - t * math.log(7) - 1e-12).all())


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0, 20.0, INF])
def test_shift_invariant_permutation_equivariant_with_bounded_balanced_gradient(temperature):
    f, y = draw()
    base = ldr_kl(f, y, temperature, 0.1, "none")
    torch.testing.assert_close(ldr_kl(f + 4.2, y, temperature, 0.1, "none"), base)
    order = torch.randperm(7, generator=generator(101))
    torch.testing.assert_close(ldr_kl(f[:, order], order.argsort()[y], temperature, 0.1, "none"), base)
    f.requires_grad_()
    ldr_kl(f, y, temperature, 0.1, "sum").backward()
    assert f.grad.sum(1).abs().max() < 1e-12
    assert f.grad.abs().sum(1).max() <= 2 + 1e-12


@pytest.mark.parametrize("temperature", [0.0, 0.2, 1.0, 5.0, INF])
def test_gradient_is_the_adversary_minus_the_label(temperature):
    f, y = draw()
    f.requires_grad_()
    ldr_kl(f, y, temperature, 0.3, "sum").backward()
    p = ldr_weights(f.detach(), y, temperature, 0.3)
    torch.testing.assert_close(f.grad, p - F.one_hot(y, 7))


@pytest.mark.parametrize("temperature", [0.05, 1.0, 8.0])
def test_closed_form_is_the_value_of_the_dual_and_beats_every_simplex_point(temperature):
    f, y = draw(n=20)
    gaps, p = score_gaps(f, y, 0.1), ldr_weights(f, y, temperature, 0.1)

    def inner(w):
        return (w * gaps).sum(-1) - temperature * torch.xlogy(w, 7 * w).sum(-1)

    value = ldr_kl(f, y, temperature, 0.1, "none")
    torch.testing.assert_close(inner(p), value, atol=1e-6, rtol=0)
    others = torch.distributions.Dirichlet(torch.full((7,), 0.5, dtype=torch.float64)).sample((1000, 1))
    assert bool((inner(others) <= value + 1e-12).all())


def test_infinite_temperature_is_symmetric_and_temperature_one_is_not():
    f, _ = draw()

    def total(t):
        return sum(ldr_kl(f, torch.full((64,), j), t, 0.1, "none") for j in range(7))

    torch.testing.assert_close(total(INF), torch.full((64,), 0.6, dtype=torch.float64), atol=1e-6, rtol=0)
    assert float(total(1.0).std()) > 0.1


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_risk_minimiser_is_the_scaled_log_posterior(temperature):
    q = torch.tensor([0.45, 0.25, 0.15, 0.1, 0.05], dtype=torch.float64)
    f = torch.zeros(1, 5, dtype=torch.float64, requires_grad=True)
    descent = torch.optim.SGD([f], lr=2 * temperature)
    for _ in range(3000):
        descent.zero_grad()
        ldr_kl(f, q[None], temperature).backward()
        descent.step()
    expected = temperature * (q.log() - q.log().mean())
    torch.testing.assert_close(f[0].detach() - f[0].detach().mean(), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 10.0])
def test_with_a_margin_the_minimiser_keeps_the_order_and_meets_its_stationarity(temperature):
    # q_k proportional to a_k (m A - (m - 1) a_k), with a = exp(f / temperature), A its sum, m = exp(c / temperature).
    c = 0.5
    a = torch.tensor([[0.1, 0.3, 0.9, 1.1, 2.0]], dtype=torch.float64)
    m, total = math.exp(c / temperature), a.sum()
    q = a * (m * total - (m - 1) * a)
    q = q / q.sum()
    assert bool((q.diff() > 0).all())
    f = (temperature * a.log()).requires_grad_()
    ldr_kl(f, q, temperature, c).backward()
    assert float(f.grad.abs().max()) < 1e-10


@pytest.mark.parametrize("margin", [0.0, 0.7])
def test_soft_target_is_the_expectation_over_labels(margin):
    f, _ = draw(n=5)
    q = torch.distributions.Dirichlet(torch.ones(7, dtype=torch.float64)).sample((5,))
    lam = torch.linspace(0.5, 2, 5, dtype=torch.float64)
    for t in (0.0, 0.5, INF, lam):
        expected = sum(q[:, j] * ldr_kl(f, torch.full((5,), j), t, margin, "none") for j in range(7))
        torch.testing.assert_close(ldr_kl(f, q, t, margin, "none"), expected)


def test_second_derivative_in_temperature_is_the_variance_over_its_cube():
    f, y = draw(n=8)
    gaps, lam, h = score_gaps(f, y), 1.3, 1e-3
    curve = sum(s * ldr_kl(f, y, lam + d, reduction="none") for s, d in ((1, h), (-2, 0), (1, -h))) / h**2
    p = ldr_weights(f, y, lam)
    variance = (p * gaps**2).sum(1) - (p * gaps).sum(1) ** 2
    torch.testing.assert_close(curve, variance / lam**3, rtol=1e-4, atol=1e-6)


def test_normalised_scores_have_mean_one_and_flat_rows_stay_finite():
    f, _ = draw()
    torch.testing.assert_close(normalize_scores(f, "l1").abs().mean(1), torch.ones(64, dtype=torch.float64))
    soft = normalize_scores(f, "softplus_mean")
    torch.testing.assert_close(soft.mean(1), torch.ones(64, dtype=torch.float64))
    torch.testing.assert_close(soft.argsort(1), f.argsort(1))
    zero = torch.zeros(2, 3, requires_grad=True)
    normalize_scores(zero, "l1").sum().backward()
    assert zero.grad.abs().max() <= 1e5 * 1.001


def test_half_precision_is_computed_in_single():
    f, y = draw(dtype=torch.float32)
    assert ldr_kl(f.bfloat16(), y).dtype == torch.float32


@pytest.mark.parametrize(
    ("error", "match", "call"),
    [
        (ValueError, "row 1 holds nan", lambda f, y: ldr_kl(f.index_fill(0, torch.tensor([1]), math.nan), y)),
        (ValueError, r"\[0, 7\)", lambda f, y: ldr_kl(f, y + 7)),
        (TypeError, "integer class indices", lambda f, y: ldr_kl(f, y.double())),
        (ValueError, "at least 2 classes", lambda f, y: ldr_kl(f[:, :1], y * 0)),
        (ValueError, "temperature", lambda f, y: ldr_kl(f, y, -1.0)),
        (ValueError, "temperature", lambda f, y: ldr_kl(f, y, torch.full((64,), -0.1))),
        (ValueError, "temperature", lambda f, y: ldr_kl(f, y, torch.ones(63))),
        (ValueError, "margin", lambda f, y: ldr_kl(f, y, margin=-0.1)),
        (ValueError, "differ in length", lambda f, y: ldr_kl(f, y[:-1])),
        (ValueError, "sum to 1", lambda f, y: ldr_kl(f, torch.full((64, 7), 0.2, dtype=torch.float64))),
        (ValueError, "soft targets must have shape", lambda f, y: ldr_kl(f, torch.full((64, 2), 0.5))),
        (ValueError, "empty batch", lambda f, y: ldr_kl(f[:0], y[:0])),
        (TypeError, "floating point", lambda f, y: ldr_kl(f.long(), y)),
        (ValueError, "reduction", lambda f, y: ldr_kl(f, y, reduction="avg")),
        (ValueError, "mode", lambda f, y: normalize_scores(f, "l2")),
    ],
)
def test_bad_input_is_refused_by_name(error, match, call):
    with pytest.raises(error, match=match):
        call(*draw())
