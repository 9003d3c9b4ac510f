from __future__ import annotations

import pytest
import torch

from holdfast.core.random import generator
from holdfast.distribution.embedding import (
    GaussianLaws,
    PointScaling,
    distance_agreement,
    make_planar_gaussians,
    make_rotated_gaussians,
)


@pytest.mark.parametrize("make", [make_planar_gaussians, make_rotated_gaussians])
def test_samples_have_the_moments_of_their_law(make):
    laws = make(3, seed=100)
    x = laws.draw(torch.tensor([2]), 60_000, generator(101))[0].double()
    cov = laws.covariance[2].double()
    scale = cov.diagonal().sqrt()
    assert bool(((x.mean(0) - laws.mean[2]).abs() < 5 * scale / 60_000**0.5).all())
    assert bool(((torch.cov(x.T) - cov).abs() < 0.03 * scale[:, None] * scale).all())


def test_rotated_laws_share_their_turn_and_differ_in_two_deviations():
    a, b = (make_rotated_gaussians(50, seed=s) for s in (100, 101))
    spectrum = torch.linalg.eigvalsh(a.covariance.double())
    assert bool(((spectrum - 1).abs() < 1e-4).sum(1).ge(8).all())
    both = torch.cat([a.covariance, b.covariance]).double() - torch.eye(10)
    assert torch.linalg.matrix_rank(both.sum(0), atol=1e-4) == 2


def test_planar_laws_lie_in_the_stated_ranges():
    laws = make_planar_gaussians(2000, seed=100)
    deviations = torch.linalg.eigvalsh(laws.covariance.double()).sqrt()
    assert 0.199 < float(deviations.min()) < 0.21
    assert 1.45 < float(deviations.max()) < 1.501
    assert float(laws.mean.abs().max()) <= 1.5


def test_agreement_is_one_for_equal_orders_and_near_zero_for_unrelated_codes():
    z = torch.randn(40, 3, generator=generator(100))
    same = distance_agreement(z, torch.cdist(z, z) ** 3)
    assert same.spearman == pytest.approx(1)
    assert same.pearson < 1
    other = torch.randn(40, 3, generator=generator(101))
    none = distance_agreement(z, torch.cdist(other, other))
    assert none.spearman_interval[0] < 0 < none.spearman_interval[1]
    assert none.spearman_interval[0] <= none.spearman <= none.spearman_interval[1]


def test_scaling_goes_and_comes_back():
    x = torch.randn(200, 5, generator=generator(100)) * torch.tensor([3.0, 1.0, 0.1, 1.0, 0.0]) + 4
    plain = PointScaling(5).fit(x)
    y = plain(x)
    torch.testing.assert_close(y[:, :4].std(0, correction=0), torch.ones(4))
    assert bool((y[:, 4] == 0).all())
    torch.testing.assert_close(plain.back(y), x)
    pca = PointScaling(5, 2).fit(x)
    y = pca(x)
    assert y.shape == (200, 2)
    assert float(y.square().mean()) == pytest.approx(1, rel=1e-4)
    # Among projections to two dimensions the leading components lose least.
    values = torch.linalg.eigvalsh(torch.cov(x.double().T, correction=0))
    lost = float((pca.back(y) - x).double().square().sum(1).mean())
    assert lost == pytest.approx(float(values[:3].sum()), rel=1e-3)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="at least four laws"):
        distance_agreement(torch.zeros(3, 2), torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r"distances must have shape \(5, 5\), got \(4, 4\)"):
        distance_agreement(torch.zeros(5, 2), torch.zeros(4, 4))
    with pytest.raises(ValueError, match="means"):
        GaussianLaws(torch.zeros(3, 2), torch.zeros(3, 3, 3))
    with pytest.raises(ValueError, match="need at least as many points"):
        PointScaling(5, 4).fit(torch.zeros(3, 5))
