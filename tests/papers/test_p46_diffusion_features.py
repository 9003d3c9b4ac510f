from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from holdfast.core.random import isolated_rng
from holdfast.core.steps import StepInfo
from holdfast.papers._bigan import BiGAN, _both_losses, train_bigan
from holdfast.papers.p46_diffusion_features import PAPER, grid_picture


@pytest.fixture(scope="module")
def values():
    return PAPER.experiment("smoke", 100)


def test_smoke_run_measures_every_claim_and_every_control(values):
    assert all(math.isfinite(claim.statistic(values)) for claim in PAPER.claims)
    for row in ("diffusion", "random", "pixels", "bigan", "bigan best layer", "bigan discriminator"):
        assert 0 < values[f"{row}/acc@100"] <= 1
    for row in ("linear pool 1", "linear pool 2", "linear pool 4", "attention", "fusion"):
        assert 0 < values[f"diffusion {row}/acc@3000"] <= 1
    assert values["diffusion/frechet"] > 0
    assert values["bigan/frechet"] > 0
    assert all(0 <= values[f"cka/{other}"] <= 1 for other in ("random", "bigan", "pixels"))


def test_the_grid_is_drawn_and_its_best_cell_is_the_one_the_claims_read(values):
    picture = grid_picture(values)
    grid = {k: v for k, v in values.items() if k.startswith("grid/acc@t=")}
    assert picture.count("<rect") == len(grid) + 1
    best = f"grid/acc@t={values['grid/best t']:g},b={values['grid/best block']:g}"
    assert grid[best] == max(grid.values())
    assert values["grid/lost at t=700"] == pytest.approx(
        grid[best] - grid[f"grid/acc@t=700,b={values['grid/best block']:g}"]
    )
    with pytest.raises(ValueError, match="no grid"):
        grid_picture({"pixels/acc@100": 0.5})


def _gan() -> tuple[BiGAN, torch.Tensor, StepInfo]:
    with isolated_rng(100):
        gan = BiGAN(1, 8, (4, 4, 8), latent=6).eval()
    x = torch.rand(7, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return gan, x, StepInfo(0, 1, 0, torch.Generator().manual_seed(3))


def test_one_pass_gives_each_player_the_gradient_of_its_own_loss():
    gan, x, info = _gan()
    _both_losses(gan, x, info)["loss"].backward()
    found = {k: p.grad.clone() for k, p in gan.named_parameters()}
    z = torch.randn(7, 6, generator=torch.Generator().manual_seed(3))
    code, fake = gan.encode(x), gan.generator(z)
    judge = F.softplus(-gan.discriminator(x, code)).mean() + F.softplus(gan.discriminator(fake, z)).mean()
    players = F.softplus(gan.discriminator(x, code)).mean() + F.softplus(-gan.discriminator(fake, z)).mean()
    ours = dict(gan.named_parameters())
    theirs = {k: p for k, p in ours.items() if k.startswith("discriminator")}
    rest = {k: p for k, p in ours.items() if k not in theirs}
    expected = dict(zip(theirs, torch.autograd.grad(judge, list(theirs.values()), retain_graph=True)))
    expected |= dict(zip(rest, torch.autograd.grad(players, list(rest.values()))))
    for name, g in expected.items():
        torch.testing.assert_close(found[name], g, atol=1e-5, rtol=1e-3)


def test_the_rival_learns_the_range_and_the_mean_of_its_images():
    g = torch.Generator().manual_seed(0)
    x = (0.8 - 0.2 * torch.rand(256, 1, 8, 8, generator=g)) * torch.tensor([1.0, -1.0]).repeat(4)
    gan = train_bigan(x, steps=150, widths=(8, 8, 16), lr=2e-3, seed=100)
    drawn = gan.sample(200, torch.Generator().manual_seed(1))
    assert float((drawn.mean(0) - x.mean(0)).abs().mean()) < 0.2
    assert float(drawn.abs().max()) <= 1
