"""Where a velocity model's error comes from."""

import pytest
import torch

from holdfast.diffusion import decompose_velocity_error


def linear_gaussian(n=50_000, seed=0):
    """x is normal; v = A x + noise; the features keep two of four entries of x."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=rng, dtype=torch.float64)
    a = torch.tensor([[1.0, 0.0, 0.5, 0.0], [0.0, 2.0, 0.0, 1.0]], dtype=torch.float64)
    v = x @ a.T + 0.3 * torch.randn(n, 2, generator=rng, dtype=torch.float64)
    return x, a, v


@pytest.mark.parametrize("regressor", ["ridge", "known"])
def test_terms_are_the_analytic_ones_and_sum_to_the_total(regressor):
    x, a, v = linear_gaussian()
    r, head = x[:, :2], x[:, :2] @ torch.diag(torch.tensor([0.5, 1.5], dtype=torch.float64))
    known = (lambda r: r @ a[:, :2].T) if regressor == "known" else regressor
    parts = decompose_velocity_error(r, v, head, known, optimal=x @ a.T)
    analytic = {
        "irreducible_bound": 0.09,
        "representation": (0.5**2 + 1.0**2) / 2,
        "head": (0.5**2 + 0.5**2) / 2,
    }
    for name, value in analytic.items():
        assert parts[name] == pytest.approx(value, rel=0.02), name
    assert parts["total"] == pytest.approx(sum(parts[k] for k in (*analytic, "cross")), abs=1e-6)
    assert abs(parts["cross"]) < 0.02


def test_sufficient_features_lack_nothing_and_the_best_head_loses_nothing():
    x, a, v = linear_gaussian(5000)
    parts = decompose_velocity_error(x, v, x @ a.T, optimal=x @ a.T)
    assert parts["representation"] < 1e-3
    assert parts["head"] < 1e-3


def test_a_perceptron_reads_what_a_line_cannot():
    rng = torch.Generator().manual_seed(0)
    r = torch.randn(4000, 1, generator=rng)
    v = r.square()
    lack = {
        k: decompose_velocity_error(r, v, torch.zeros_like(v), k, optimal=v)["representation"] for k in ("ridge", "mlp")
    }
    assert lack["mlp"] < 0.2 * lack["ridge"]


def test_without_the_optimum_the_noise_counts_as_lack():
    x, a, v = linear_gaussian(5000)
    parts = decompose_velocity_error(x, v, x @ a.T)
    assert parts["irreducible_bound"] == 0
    assert parts["representation"] == pytest.approx(0.09, rel=0.1)


def test_bad_input_is_refused():
    x, v = torch.zeros(10, 2), torch.zeros(10, 3)
    for call, match in (
        (lambda: decompose_velocity_error(x[:5], v, v), "10"),
        (lambda: decompose_velocity_error(x, v, v[:, :2]), r"head must have the velocities' shape \(10, 3\)"),
        (lambda: decompose_velocity_error(x, v, v, optimal=v[:, :1]), "optimal must have"),
        (lambda: decompose_velocity_error(x[0], v, v), r"\(n, d\) and \(n, k\)"),
        (lambda: decompose_velocity_error(x, v, v, "forest"), "'forest'"),
        (lambda: decompose_velocity_error(x, v, v, held_out=1.0), "held_out"),
        (lambda: decompose_velocity_error(x, torch.full_like(v, float("nan")), v), "velocities"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
