"""An encoder learned from views, and the views."""

import pytest
import torch
from torch import nn

from holdfast.core.random import isolated_rng
from holdfast.core.steps import StepInfo
from holdfast.representation.simclr import SimCLR, mean_features, train_simclr
from holdfast.representation.views import AffineViews, PhotoViews


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n=64, channels=1, side=8):
    return torch.rand((n, channels, side, side), generator=rng()) * 2 - 1


def test_equal_views_cost_less_than_unrelated_ones():
    info = StepInfo(0, 1, 0, rng())
    x = torch.randn(32, 6, generator=rng(1))
    same = SimCLR(lambda x, g: x, width=6)(nn.Identity(), x, info)
    other = SimCLR(lambda x, g: torch.randn(x.shape, generator=g), width=6)(nn.Identity(), x, info)
    assert float(same.detach()) < float(other.detach()) - 1


def test_training_tells_clusters_apart_without_labels_and_is_deterministic():
    y = torch.arange(120) % 3
    centres = torch.randn(3, 10, generator=rng(3)) * 2
    x = centres[y] + 0.3 * torch.randn(120, 10, generator=rng(4))

    def views(x, g):
        return x + 0.3 * torch.randn(x.shape, generator=g)

    def run():
        with isolated_rng(0):
            net = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 8))
        result = train_simclr(net, x, views, steps=60, batch_size=40, lr=3e-3, device="cpu")
        return net, result

    (net, result), (again, _) = run(), run()
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters()))
    assert not net.training
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    z = nn.functional.normalize(net(x).detach(), dim=1)
    within, between = (z @ z.T)[y[:, None] == y].mean(), (z @ z.T)[y[:, None] != y].mean()
    assert within > between + 0.3


def test_features_are_averaged_over_places():
    m = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(mean_features(m), m.flatten(2).mean(2))
    with pytest.raises(ValueError, match=r"got shape \(3,\)"):
        mean_features(torch.zeros(3))


@pytest.mark.parametrize("views", [AffineViews(), PhotoViews()])
def test_views_follow_the_generator_and_differ_between_samples(views):
    x = images(4, 3)[:1].expand(4, 3, 8, 8)
    a, b, c = views(x, rng(1)), views(x, rng(1)), views(x, rng(2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert not torch.equal(a[0], a[1])


def test_affine_views_of_no_amount_are_the_image_and_shifts_are_shifts():
    x = images(3)
    still = AffineViews(rotation=0, scale=0, shear=0, shift=0)
    torch.testing.assert_close(still(x, rng()), x, atol=1e-5, rtol=0)
    moved = AffineViews(rotation=0, scale=0, shear=0, shift=2.0, fill=-7.0)(x, rng(5))
    assert bool((moved == -7).any())


def test_photo_views_stay_in_range_and_bleached_ones_are_grey():
    x = images(40, 3)
    out = PhotoViews()(x, rng())
    assert float(out.abs().max()) <= 1 + 1e-6
    grey = PhotoViews(grey_rate=1.0)(x, rng())
    torch.testing.assert_close(grey, grey.mean(1, keepdim=True).expand_as(grey))
    plain = PhotoViews(smallest=1.0, jitter=0.0, grey_rate=0.0, mirror=False)
    assert plain(x, rng()).shape == x.shape


def test_bad_input_is_refused():
    net = nn.Conv2d(1, 2, 3)
    for call, match in (
        (lambda: AffineViews(rotation=-1), "rotation"),
        (lambda: AffineViews(scale=1.0), "scale"),
        (lambda: PhotoViews(smallest=1.5), "smallest"),
        (lambda: SimCLR(AffineViews(), 3, temperature=0), "temperature"),
        (lambda: train_simclr(net, images(1), AffineViews(), steps=1), "at least 2 samples"),
        (lambda: train_simclr(net, images() * float("inf"), AffineViews(), steps=1), "x"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
    with pytest.raises(TypeError, match=r"torch\.uint8"):
        train_simclr(net, images().to(torch.uint8), AffineViews(), steps=1)
