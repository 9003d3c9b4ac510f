import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from holdfast.core.random import generator
from holdfast.shift.label_adversary import label_dro, project_capped_simplex
from holdfast.shift.label_robust import ldr_kl, ldr_weights, score_gaps


def draw(n=10, k=5, scale=2.0, seed=100):
    g = generator(seed)
    return scale * torch.randn(n, k, generator=g, dtype=torch.float64), torch.randint(k, (n,), generator=g)


def penalty(p, divergence):
    k = len(p)
    if divergence == "kl":
        q = np.maximum(p, 1e-300)
        return float((p * np.log(k * q)).sum() - p.sum() + 1)
    return 0.5 * k * float(((p - 1 / k) ** 2).sum()) if divergence == "l2" else 0.0


def slope(p, divergence):
    k = len(p)
    if divergence == "kl":
        return np.log(k * np.maximum(p, 1e-300))
    return k * (p - 1 / k) if divergence == "l2" else np.zeros(k)


@pytest.mark.parametrize("cap", [None, 0.15, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("divergence", ["kl", "l2", "none"])
@pytest.mark.parametrize("temperature", [0.3, 2.0])
def test_inner_maximum_agrees_with_slsqp(divergence, cap, temperature):
    f, y = draw()
    loss, weights = label_dro(f, y, divergence, cap, temperature, 0.1, "none")
    gaps = score_gaps(f, y, 0.1).numpy()
    k, bound = 5, 1.0 if cap is None else cap
    kind = "eq" if cap is None else "ineq"
    total = weights.sum(1)
    assert float(weights.min()) >= 0
    assert float(weights.max()) <= bound + 1e-12
    assert bool(((total - 1).abs() < 1e-9).all() if cap is None else (total <= 1 + 1e-9).all())
    for i in range(len(f)):
        best = minimize(
            lambda p, d=gaps[i]: -(p @ d - temperature * penalty(p, divergence)),
            np.full(k, min(1 / k, bound)),
            method="SLSQP",
            jac=lambda p, d=gaps[i]: temperature * slope(p, divergence) - d,
            bounds=[(1e-12, bound)] * k,
            constraints={"type": kind, "fun": lambda p: 1 - p.sum(), "jac": lambda p: -np.ones(k)},
            options={"ftol": 1e-13, "maxiter": 500},
        )
        assert abs(-best.fun - float(loss[i])) < 1e-5


@pytest.mark.parametrize("cap", [None, 0.4])
@pytest.mark.parametrize("divergence", ["kl", "l2"])
def test_no_feasible_weights_do_better(divergence, cap):
    f, y = draw()
    loss, _ = label_dro(f, y, divergence, cap, 0.8, 0.1, "none")
    gaps = score_gaps(f, y, 0.1).numpy()
    points = np.random.default_rng(100).dirichlet(np.full(5, 0.5), 4000)
    if cap is not None:
        points = np.minimum(points, cap) * np.random.default_rng(101).uniform(0, 1, (4000, 1)) ** 0.1
    for p in points[:1000]:
        assert bool((gaps @ p - 0.8 * penalty(p, divergence) <= loss.numpy() + 1e-10).all())


def test_kl_on_the_simplex_is_the_closed_form():
    f, y = draw()
    loss, p = label_dro(f, y, "kl", None, 0.7, 0.1, "none")
    torch.testing.assert_close(loss, ldr_kl(f, y, 0.7, 0.1, "none"), atol=1e-10, rtol=0)
    torch.testing.assert_close(p, ldr_weights(f, y, 0.7, 0.1))


@pytest.mark.parametrize("m", [1, 2, 3, 5])
def test_cap_one_over_m_without_penalty_is_the_mean_of_the_m_largest_clipped_gaps(m):
    f, y = draw()
    loss, _ = label_dro(f, y, "none", 1 / m, 1.0, 0.3, "none")
    expected = score_gaps(f, y, 0.3).topk(m, 1).values.clamp(min=0).mean(1)
    torch.testing.assert_close(loss, expected)
    # Temperature 0 ignores the penalty, whichever it is.
    for divergence in ("kl", "l2"):
        torch.testing.assert_close(label_dro(f, y, divergence, 1 / m, 0.0, 0.3, "none")[0], expected)


def test_infinite_temperature_is_the_mean_gap_for_every_penalty():
    f, y = draw()
    for divergence in ("kl", "l2"):
        loss, p = label_dro(f, y, divergence, None, math.inf, 0.3, "none")
        torch.testing.assert_close(loss, score_gaps(f, y, 0.3).mean(1))
        torch.testing.assert_close(p, torch.full_like(p, 0.2))


@pytest.mark.parametrize(("divergence", "cap"), [("kl", None), ("kl", 0.4), ("l2", None), ("l2", 0.4), ("none", 0.4)])
def test_gradient_is_the_envelope_gradient(divergence, cap):
    f, y = draw(n=4)
    f.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: label_dro(s, y, divergence, cap, 0.9, 0.1)[0], (f,), atol=1e-5)


def test_projection_is_idempotent_and_nonexpansive():
    g = generator(100)
    a, b = torch.randn(50, 9, generator=g, dtype=torch.float64), torch.randn(50, 9, generator=g, dtype=torch.float64)
    for cap in (None, 0.2, 1 / 9):
        p, q = project_capped_simplex(a, cap), project_capped_simplex(b, cap)
        torch.testing.assert_close(p.sum(1), torch.ones(50, dtype=torch.float64))
        torch.testing.assert_close(project_capped_simplex(p, cap), p)
        assert bool(((p - q).norm(dim=1) <= (a - b).norm(dim=1) + 1e-12).all())


@pytest.mark.parametrize(
    ("match", "call"),
    [
        ("cap", lambda f, y: label_dro(f, y, cap=0.0)),
        ("cap", lambda f, y: label_dro(f, y, cap=1.5)),
        ("divergence", lambda f, y: label_dro(f, y, "chi2")),
        ("infinite temperature", lambda f, y: label_dro(f, y, "kl", 0.1, math.inf)),
        ("sum to 1", lambda f, y: project_capped_simplex(f, 0.1)),
        ("finite", lambda f, y: label_dro(f * math.nan, y)),
    ],
)
def test_bad_input_is_refused_by_name(match, call):
    with pytest.raises(ValueError, match=match):
        call(*draw())
