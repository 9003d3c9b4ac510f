from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from holdfast.core.random import generator, isolated_rng
from holdfast.distribution.singular import (
    Charts,
    CircleLatent,
    GaussianEncoder,
    LatentGaussianGenerator,
    NormalLatent,
    fit_likelihood,
    make_space_curve,
    select_perturbation,
)
from holdfast.nn.coders import MLPDecoder, MLPEncoder

FAST = {"lr": 2e-2, "lr_sigma": 2e-2, "device": "cpu"}


class LinearNet(nn.Module):
    """A posterior whose mean is linear in the point and whose deviation is one for all: exact for linear generators."""

    def __init__(self, d, latent):
        super().__init__()
        self.mean, self.log_var = nn.Linear(d, latent), nn.Parameter(torch.zeros(latent))

    def forward(self, x, e):
        return torch.cat([self.mean(x), self.log_var.expand(len(x), -1)], dim=1)


def plane(n=2000, d=8, noise=0.2, seed=100):
    """Points of a plane, with noise; axes of the plane have deviation 1 and 0.7."""
    rng = generator(seed)
    A = torch.linalg.qr(torch.randn(d, 2, generator=rng)).Q * torch.tensor([1.0, 0.7])
    return torch.randn(n, 2, generator=rng) @ A.T + noise * torch.randn(n, d, generator=rng)


def linear(d=8, latent=2, seed=100):
    with isolated_rng(seed):
        return LatentGaussianGenerator(nn.Linear(latent, d), NormalLatent(latent))


@pytest.fixture(scope="module")
def vae():
    x = plane()
    model = linear()
    with isolated_rng(101):
        encoder = GaussianEncoder(LinearNet(8, 2))
    fit = fit_likelihood(model, x, 0.15, encoder=encoder, steps=1500, seed=100, **FAST)
    return x, model, fit


def test_the_learned_deviation_is_that_of_both_noises_together(vae):
    _, model, fit = vae
    assert fit.sigma_hat == pytest.approx(math.hypot(0.2, 0.15), rel=0.03)
    assert fit.sigma_hat == model.sigma
    assert fit.sigma_own == pytest.approx(0.2, rel=0.06)


def test_a_bound_with_the_right_kind_of_encoder_reaches_the_likelihood(vae):
    x, model, fit = vae
    noisy = x + 0.15 * torch.randn(x.shape, generator=generator(102))
    with torch.no_grad():
        bounds = torch.stack([model.elbo(noisy, fit.encoder, 1, generator(k)).mean() for k in range(20)])
    gap = float(model.log_prob(noisy, "exact").mean() - bounds.mean())
    assert -4 * float(bounds.std()) / 20**0.5 < gap < 0.02


@pytest.mark.parametrize("objective", ["iwae", "quadrature"])
def test_the_other_objectives_find_the_same_deviation(objective):
    x = plane(noise=0.3)
    fit = fit_likelihood(linear(), x, 0.0, objective, draws=5, nodes=14**2, steps=400, seed=100, **FAST)
    assert fit.sigma_hat == pytest.approx(0.3, rel=0.05)
    assert (fit.ess is None) == (objective != "iwae")
    if fit.ess is not None:
        assert 1 <= fit.ess <= 5
    assert (fit.resolution is None) == (objective != "quadrature")


def test_units_of_the_data_are_units_of_the_result():
    x = make_space_curve(300, seed=100)
    found = []
    for c in (1.0, 37.0):
        with isolated_rng(100):
            model = LatentGaussianGenerator(MLPDecoder(2, (10,), width=32), NormalLatent(2))
        fit = fit_likelihood(model, c * x, c * 0.1, steps=30, seed=100, device="cpu")
        found.append((fit.sigma_hat, model.sample(50, generator(100))))
    (a, x_a), (b, x_b) = found
    assert b == pytest.approx(37 * a, rel=1e-3)
    torch.testing.assert_close(x_b, 37 * x_a, rtol=1e-2, atol=0.1)


def test_a_choice_of_noise_scales_with_the_data():
    x = plane(200)
    options = {"grid": (0.0, 0.3, 2.0), "folds": 1, "steps": 60, "samples": 500, "seed": 100, **FAST}
    a, b = (select_perturbation(linear, c * x, **options) for c in (1.0, 8.0))
    assert b.sigma == pytest.approx(8 * a.sigma, rel=1e-3)
    for low, high in zip(a.curve.values(), b.curve.values()):
        assert high == pytest.approx(8 * low, rel=0.02)


def test_a_fit_is_repeatable_and_the_modes_of_noise_differ():
    x = plane(100)
    runs = [fit_likelihood(linear(), x, 0.2, mode=m, steps=10, seed=100, device="cpu") for m in ("fresh", "fixed") * 2]
    values = [run.sigma_hat for run in runs]
    assert values[:2] == values[2:]
    assert values[0] != values[1]


def test_fixed_noise_does_not_change_from_step_to_step():
    seen = []

    class Spy(LinearNet):
        def forward(self, x, e):
            seen.append(x.detach().clone())
            return super().forward(x, e)

    x = plane(20)
    for mode in ("fixed", "fresh"):
        seen.clear()
        fit_likelihood(
            linear(), x, 0.2, encoder=GaussianEncoder(Spy(8, 2)), mode=mode, steps=3, batch_size=20, device="cpu"
        )
        one, two = (rows.flatten().sort().values for rows in seen[:2])
        assert torch.equal(one, two) == (mode == "fixed")


def test_pieces_get_charts_of_their_own():
    rng = generator(100)
    t = torch.randn(400, 1, generator=rng)
    side = (torch.rand(400, 1, generator=rng) < 0.3).float()
    x = torch.cat([6 * side - 3, t * (1 - side), t * side], dim=1)
    with isolated_rng(100):
        latent = Charts(NormalLatent(1), 2)
        model = LatentGaussianGenerator(nn.Linear(3, 3), latent)
        with torch.no_grad():
            model.f.weight[0, 1:] = torch.tensor([-1.0, 1.0])
    fit_likelihood(model, x, 0.2, "quadrature", nodes=32, steps=400, seed=100, **FAST)
    drawn = model.sample(2000, generator(100))
    # No bridge between the pieces, and the weights are the shares.
    assert float((drawn[:, 0].abs() < 2).float().mean()) == 0
    assert float((drawn[:, 0] > 0).float().mean()) == pytest.approx(float(side.mean()), abs=0.05)


def test_the_report_says_what_the_deviation_means():
    x = plane(200, noise=0.0)
    few = {"steps": 5, "device": "cpu"}
    assert "no noise was added" in str(fit_likelihood(linear(), x, 0.0, **few))
    assert "more than half of what was added" in str(fit_likelihood(linear(), x, 0.1, **few))
    coarse = fit_likelihood(linear(), x, 0.1, "quadrature", nodes=4, **few)
    assert "grid is too coarse" in str(coarse)


def test_noise_is_chosen_where_the_law_is_singular_and_not_where_it_is_not():
    def curved():
        return LatentGaussianGenerator(MLPDecoder(2, (10,), width=64), NormalLatent(2))

    # The deviation has to come near 0, where the likelihood drives it, within a short training.
    singular = select_perturbation(
        curved, make_space_curve(500, seed=100), (0.0, 0.2), folds=1, steps=500, lr_sigma=0.05, seed=100, device="cpu"
    )
    assert singular.sigma > 0

    def full():
        return LatentGaussianGenerator(nn.Linear(2, 2), NormalLatent(2))

    x = torch.randn(600, 2, generator=generator(100)) @ torch.tensor([[1.0, 0.3], [0.0, 0.5]])
    options = {"grid": (0.0, 0.4), "folds": 3, "steps": 150, "seed": 100, **FAST}
    assert select_perturbation(full, x, **options).sigma == 0


def test_bad_input_is_refused():
    x = plane(100)
    with pytest.raises(ValueError, match=r"sigma_tilde must be in \[0, inf\), got -1"):
        fit_likelihood(linear(), x, -1)
    bad = x.clone()
    bad[3, 1] = math.nan
    with pytest.raises(ValueError, match="X must be finite, but row 3 holds nan"):
        fit_likelihood(linear(), bad, 0.1)
    bad[:, 1] = math.nan
    with pytest.raises(ValueError, match="columns 1 of X are NaN in every row, as a constant column"):
        fit_likelihood(linear(), bad, 0.1)
    with pytest.raises(ValueError, match="at least 20 rows, got 19"):
        fit_likelihood(linear(), x[:19], 0.1)
    with pytest.raises(ValueError, match="2 different rows, but all are equal"):
        fit_likelihood(linear(), x[:1].expand(30, -1), 0.1)
    with pytest.raises(ValueError, match="latents of at most 2 dimensions, got 3"):
        fit_likelihood(linear(latent=3), x, 0.1, "quadrature")
    with pytest.raises(ValueError, match="objective must be one of 'vae', 'iwae', 'quadrature'"):
        fit_likelihood(linear(), x, 0.1, "gan")
    with pytest.raises(TypeError, match=r"noise on codes means nothing, but X holds torch.int64"):
        fit_likelihood(linear(), torch.ones(30, 8, dtype=torch.int64), 0.1)
    table = pd.DataFrame({"a": np.random.default_rng(0).normal(size=30), "site": np.arange(30) % 3})
    with pytest.raises(TypeError, match="these columns hold no real numbers: site"):
        fit_likelihood(linear(2), table, 0.1)
    with pytest.raises(ValueError, match="need a normal latent, got CircleLatent"):
        fit_likelihood(LatentGaussianGenerator(nn.Linear(2, 8), CircleLatent()), x, 0.1)
    with pytest.raises(ValueError, match="grid is empty"):
        select_perturbation(linear, x, ())
    with pytest.raises(ValueError, match="criterion must be one of 'sw1', 'energy', 'mmd'"):
        select_perturbation(linear, x, (0.0,), "fid", folds=1, steps=1, device="cpu")


def test_columns_of_very_different_scale_warn():
    x = plane(100)
    x[:, 0] *= 1e4
    with pytest.warns(UserWarning, match="columns of X differ in scale by a factor of"):
        fit_likelihood(linear(), x, 0.1, steps=1, device="cpu")


def test_a_constant_column_stays_finite_and_a_deviation_of_each_falls_to_its_bound():
    x = torch.cat([plane(200, noise=0.1), torch.ones(200, 1)], dim=1)
    with isolated_rng(100):
        model = LatentGaussianGenerator(nn.Linear(2, 9), NormalLatent(2), sigma_min=0.05, per_dim=9)
        encoder = GaussianEncoder(MLPEncoder((9,), 0, 4, width=16))
    fit = fit_likelihood(model, x, 0.0, encoder=encoder, steps=600, seed=100, **FAST)
    each = model.log_sigma.detach().exp()
    assert int(each.argmin()) == 8
    assert float(each.min()) < 1.3 * 0.05
    assert math.isfinite(fit.value)
