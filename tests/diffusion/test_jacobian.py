from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from holdfast.core.grassmann import random_frame
from holdfast.core.random import generator, isolated_rng
from holdfast.diffusion import (
    Denoiser,
    DenoisingMLP,
    GaussianOracle,
    LinearPath,
    VEPath,
    apply_edit,
    denoising_loss,
    edit_direction,
    edm_heun,
    jacobian_spectrum,
    jacobian_svd,
    numerical_rank,
)


def network(n: int = 12):
    with isolated_rng(100):
        return nn.Sequential(nn.Linear(n, 20), nn.SiLU(), nn.Linear(20, n + 1)).double().eval()


def points(rows: int = 3, n: int = 12):
    return torch.randn(rows, n, generator=generator(101), dtype=torch.float64)


def test_the_spectrum_is_that_of_jacrev():
    f, x = network(), points()
    J = torch.func.vmap(torch.func.jacrev(f))(x)
    torch.testing.assert_close(jacobian_spectrum(f, x), torch.linalg.svdvals(J))
    torch.testing.assert_close(jacobian_spectrum(f, x, 4), torch.linalg.svdvals(J)[:, :4])


def test_images_and_outputs_of_another_shape_have_a_jacobian_too():
    f = lambda x: x.flatten(1)[:, :5] * torch.arange(5.0)  # noqa: E731
    found = jacobian_svd(f, torch.ones(2, 1, 3, 4), 2)
    torch.testing.assert_close(found.values, torch.tensor([[4.0, 3.0]]).expand(2, 2))
    assert found.right.shape == (2, 2, 1, 3, 4)


def test_products_alone_find_the_same_directions():
    J = torch.diag(torch.tensor([8.0, 4.0, 2.0, *[0.1] * 27])).double()
    turn = random_frame(30, 30, generator=generator(102), dtype=torch.float64)
    f = lambda x: torch.tanh(1e-3 * x @ turn @ J) * 1e3  # noqa: E731
    x = torch.zeros(2, 30, dtype=torch.float64)
    full = jacobian_svd(f, x, 3)
    quick = jacobian_svd(f, x, 3, method="randomised", generator=generator(103))
    torch.testing.assert_close(quick.values, full.values)
    torch.testing.assert_close((quick.right * full.right).sum(-1).abs(), torch.ones(2, 3, dtype=torch.float64))


def test_the_numerical_rank_counts_to_the_share_of_the_norm():
    assert numerical_rank(torch.ones(64), 0.99).item() == math.ceil(0.99**2 * 64)
    assert numerical_rank(torch.tensor([1.0, 0.0, 0.0])).item() == 1
    assert numerical_rank(torch.ones(7), 1.0).item() == 7
    assert numerical_rank(torch.zeros(3)).item() == 0


def test_local_directions_leave_the_rest_as_it_is_to_first_order():
    with isolated_rng(100):
        net = DenoisingMLP(10, width=16, depth=2)
        for p in net.parameters():
            nn.init.normal_(p, std=0.3)
    model = Denoiser(net.double().eval(), VEPath(), "data")
    x, mask = points(2, 10), torch.arange(10) < 4
    v = edit_direction(model, x, 1.0, 2, mask=mask, nullspace=3)
    torch.testing.assert_close(v.norm(dim=-1), torch.ones(2, 2, dtype=v.dtype))
    rest = jacobian_svd(lambda y: model.predict(y, 1.0, target="data")[:, 4:], x, 3)
    assert float((v @ rest.right.mT).abs().max()) < 1e-10
    plain = edit_direction(model, x, 1.0, 1, mask=mask)[:, 0]
    inside = jacobian_svd(lambda y: model.predict(y, 1.0, target="data")[:, :4], x, 1)
    torch.testing.assert_close((plain * inside.right[:, 0]).sum(-1).abs(), torch.ones(2, dtype=v.dtype))


@pytest.mark.parametrize("path", [VEPath(), LinearPath()])
def test_an_edit_of_nothing_is_the_sampler_and_an_edit_moves_along_its_direction(path):
    variances = torch.tensor([4.0, 1.0, 1e-4], dtype=torch.float64)
    model = GaussianOracle(torch.zeros(3, dtype=torch.float64), variances, path)
    t = 0.7
    c = path.coefficients(torch.tensor([t], dtype=torch.float64))
    level = float(c.sigma / c.alpha)
    x = points(4, 3)
    v = edit_direction(model, x, t)[:, 0]
    torch.testing.assert_close(v.abs(), torch.tensor([[1.0, 0.0, 0.0]], dtype=v.dtype).expand(4, 3))
    same = apply_edit(model, x, t, v, 0.0)
    torch.testing.assert_close(same.x, edm_heun(model, x, steps=18, sigma_max=level).x)
    moved = apply_edit(model, x, t, v, 1.0, keep_norm=False, steps=60).x - apply_edit(model, x, t, v, 0.0, steps=60).x
    # The flow of a Gaussian is linear: an axis of variance l is scaled by sqrt(l / (alpha^2 l + sigma^2)).
    scale = torch.sqrt(variances[0] / (c.alpha**2 * variances[0] + c.sigma**2))
    torch.testing.assert_close(moved, scale * v, rtol=2e-3, atol=1e-6)


def test_a_kept_norm_is_kept():
    model = GaussianOracle(torch.zeros(2), torch.ones(2), VEPath())
    x = torch.tensor([[3.0, 4.0]])
    edited = apply_edit(model, x, 1.0, torch.tensor([[1.0, 0.0]]), 5.0).x
    plain = edm_heun(model, x, steps=18, sigma_max=1.0).x
    torch.testing.assert_close(edited.norm(), plain.norm())  # a round Gaussian scales all directions alike


def test_antithetic_noise_has_the_same_mean_and_no_linear_part():
    x0, t = points(2000, 4), torch.full((2000,), 0.1, dtype=torch.float64)
    shrink = lambda x, t: 0.9 * x  # noqa: E731
    pair = denoising_loss(shrink, x0, t, generator=generator(100))
    one = denoising_loss(shrink, x0, t, antithetic=False, generator=generator(102))
    exact = 0.01 * x0.square().sum(1) + 4 * 0.81 * 0.01  # bias plus variance
    for loss in (pair, one):
        off = loss - exact
        assert abs(float(off.mean())) < 4 * float(off.std()) / math.sqrt(2000)
    assert (pair - exact).var() < (one - exact).var()
    # Per sample: |0.9 s eps|^2 + |0.1 x|^2, without the product of both.
    eps = torch.randn(x0.shape, generator=generator(100), dtype=x0.dtype)
    torch.testing.assert_close(pair, 0.01 * x0.square().sum(1) + 0.0081 * eps.square().sum(1))


def test_several_models_are_one_batch_of_losses_and_weights_multiply():
    x0, t = points(5, 4), torch.rand(5, generator=generator(100), dtype=torch.float64)
    two = denoising_loss(lambda x, t: torch.stack([0 * x, x]), x0, t, generator=generator(1))
    assert two.shape == (2, 5)
    torch.testing.assert_close(two[0], x0.square().sum(1))
    zero = lambda x, t: 0 * x  # noqa: E731
    weighted = denoising_loss(zero, x0, t, weighting=lambda t: 2 * t, generator=generator(1))
    torch.testing.assert_close(weighted, 2 * t * x0.square().sum(1))


def test_bad_input_is_refused():
    f, x = network(), points()
    with pytest.raises(ValueError, match="k must be in \\[1, 12\\], got 13"):
        jacobian_svd(f, x, 13)
    with pytest.raises(ValueError, match="method must be one of 'full', 'randomised'"):
        jacobian_svd(f, x, method="lanczos")
    with pytest.raises(ValueError, match="x must be finite"):
        jacobian_spectrum(f, torch.full((1, 12), float("nan"), dtype=torch.float64))
    with pytest.raises(TypeError, match="floating-point batch"):
        jacobian_spectrum(f, torch.zeros(12))
    with pytest.raises(ValueError, match="sorted from the largest down"):
        numerical_rank(torch.tensor([1.0, 2.0]))
    with pytest.raises(ValueError, match="energy must be in"):
        numerical_rank(torch.ones(2), 0.0)
    model = GaussianOracle(torch.zeros(3), torch.ones(3), VEPath())
    at = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="nullspace needs a mask"):
        edit_direction(model, at, 1.0, nullspace=1)
    with pytest.raises(ValueError, match="shape of one sample, \\(3,\\), got \\(2,\\)"):
        edit_direction(model, at, 1.0, mask=torch.ones(2))
    with pytest.raises(ValueError, match="false everywhere"):
        edit_direction(model, at, 1.0, mask=torch.zeros(3))
    with pytest.raises(ValueError, match="true everywhere"):
        edit_direction(model, at, 1.0, mask=torch.ones(3), nullspace=1)
    with pytest.raises(ValueError, match="direction must have the shape of x_t"):
        apply_edit(model, at, 1.0, torch.zeros(3), 1.0)
    with pytest.raises(ValueError, match="t must be one time per sample"):
        denoising_loss(lambda x, t: x, at, torch.ones(3))
