"""The U-Net: its block table, early exit, what is added to blocks, and what is refused."""

from __future__ import annotations

import pytest
import torch

from holdfast.core.random import generator, isolated_rng
from holdfast.diffusion.backbones.unet import UNet
from holdfast.diffusion.backbones.unet_blocks import MapAttention, ResidualBlock, wake_zero_layers

CHANNELS = [256] * 7 + [512] * 6 + [1024] * 12 + [512] * 6 + [256] * 6
SIDES = (
    [256] * 3 + [128] * 3 + [64] * 3 + [32] * 3 + [16] * 3 + [8] * 6 + [16] * 3 + [32] * 3 + [64] * 3 + [128] * 3
) + [256] * 4


def _net(**options) -> UNet:
    settings = {"in_channels": 2, "size": 8, "base": 8, "mult": (1, 2), "blocks_per_level": 1, "attn_resolutions": (4,)}
    with isolated_rng(100):
        net = UNet(**settings | options)
    wake_zero_layers(net, generator(100))
    return net.eval()


def _input(n: int = 3, channels: int = 2, side: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    g = generator(101)
    return torch.randn(n, channels, side, side, generator=g), torch.randint(1000, (n,), generator=g)


@pytest.fixture(scope="module")
def published() -> UNet:
    with torch.device("meta"):
        return UNet(3, 256, 256, (1, 1, 2, 2, 4, 4), 2, (32, 16, 8), learn_sigma=True)


def test_published_configuration_has_the_published_table(published: UNet) -> None:
    assert [b.index for b in published.blocks] == list(range(1, 38))
    assert [b.channels for b in published.blocks] == CHANNELS
    assert [b.resolution for b in published.blocks] == SIDES
    assert [b.stage for b in published.blocks] == ["down"] * 18 + ["middle"] + ["up"] * 18


def test_maps_of_the_published_configuration_are_what_the_table_says(published: UNet) -> None:
    with torch.device("meta"):
        out = published(torch.empty(1, 3, 256, 256), torch.empty(1), taps=range(1, 38))
    assert out.pred is not None
    assert out.pred.shape == (1, 6, 256, 256)
    assert [tuple(out.taps[b].shape) for b in range(1, 38)] == [(1, c, s, s) for c, s in zip(CHANNELS, SIDES)]
    assert sum(p.numel() for p in published.parameters()) == pytest.approx(552.8e6, rel=0.01)


def test_partners_mirror_each_other_and_differ_in_size_only_behind_an_upsampler(published: UNet) -> None:
    doubled = {}
    for b in published.blocks[:18]:
        partner = published.blocks[published.partner(b.index) - 1]
        assert published.partner(partner.index) == b.index
        assert partner.index == 38 - b.index
        if partner.resolution != b.resolution:
            doubled[partner.index] = b.index
            assert partner.resolution == 2 * b.resolution
    assert doubled == {22: 16, 25: 13, 28: 10, 31: 7, 34: 4}


def test_without_resample_blocks_a_net_of_three_levels_has_eight_blocks() -> None:
    net = UNet(1, 16, 8, (1, 2, 2), 1, resample_blocks=False)
    assert [b.resolution for b in net.blocks] == [16, 16, 8, 4, 4, 8, 16, 16]
    assert [b.stage for b in net.blocks] == ["down"] * 4 + ["middle"] + ["up"] * 3
    assert net(torch.zeros(1, 1, 16, 16), torch.zeros(1)).pred.shape == (1, 1, 16, 16)


@pytest.mark.parametrize("resample_blocks", [True, False])
def test_early_exit_returns_the_same_taps_and_runs_only_what_they_need(resample_blocks: bool) -> None:
    net = _net(resample_blocks=resample_blocks)
    x, t = _input()
    calls: list[int] = []
    for i, layer in enumerate(net.layers, 1):
        layer.register_forward_hook(lambda *_, i=i: calls.append(i))
    with torch.no_grad():
        full = net(x, t, taps=range(1, net.depth + 1))
        assert calls == list(range(1, net.depth + 1))
        for b in range(1, net.depth + 1):
            calls.clear()
            early = net(x, t, taps=(b,), stop_at=b)
            assert early.pred is None
            assert calls == list(range(1, b + 1))
            torch.testing.assert_close(early.taps[b], full.taps[b], atol=1e-6, rtol=0)


def test_every_block_matters_to_the_prediction_and_carries_gradient() -> None:
    net = _net()
    x, t = _input()
    out = net(x, t, taps=range(1, net.depth + 1))
    grads = torch.autograd.grad(out.pred.square().sum(), [*out.taps.values(), *net.parameters()])
    assert all(bool(g.any()) for g in grads)


def test_fresh_net_predicts_zero_and_an_awake_one_does_not() -> None:
    with isolated_rng(100):
        net = UNet(2, 8, 8, (1, 2), 1)
    x, t = _input()
    assert not bool(net(x, t).pred.any())
    zero_layers = 1 + sum(isinstance(m, ResidualBlock) for m in net.modules())
    assert wake_zero_layers(net, generator(0)) == zero_layers
    assert bool(net(x, t).pred.any())
    assert wake_zero_layers(net, generator(0)) == 0


def test_added_maps_enter_at_their_block_and_reach_what_comes_after() -> None:
    net = _net()
    x, t = _input()
    with torch.no_grad():
        plain = net(x, t, taps=(2, 3, 4)).taps
        moved = net(x, t, taps=(2, 3, 4), add={3: torch.ones_like(plain[3])}).taps
        zero = net(x, t, add={3: torch.zeros_like(plain[3])}).pred
        assert torch.equal(zero, net(x, t).pred)
    assert torch.equal(moved[2], plain[2])
    torch.testing.assert_close(moved[3], plain[3] + 1)
    assert not torch.allclose(moved[4], plain[4])


def test_time_counts_in_the_units_of_training() -> None:
    steps, unit = _net(), _net(time_scale=1000.0)
    x, _ = _input()
    t = torch.tensor([10.0, 90.0, 700.0])
    torch.testing.assert_close(steps(x, t).pred, unit(x, t / 1000).pred, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(steps(x, t).pred, steps(x, t / 1000).pred)


def test_classes_condition_the_prediction() -> None:
    net = _net(num_classes=4)
    x, t = _input()
    null = torch.full((3,), net.null_class)
    assert not torch.allclose(net(x, t, torch.tensor([0, 1, 2])).pred, net(x, t, null).pred)


def test_attention_does_not_see_the_order_of_places() -> None:
    with isolated_rng(0):
        layer = MapAttention(8, head_channels=4)
    wake_zero_layers(layer, generator(0))
    x, order = torch.randn(2, 8, 3, 3, generator=generator(1)), torch.randperm(9, generator=generator(2))
    shuffled = x.flatten(2)[..., order].unflatten(2, (3, 3))
    torch.testing.assert_close(layer(shuffled), layer(x).flatten(2)[..., order].unflatten(2, (3, 3)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 9}, "multiple of 2"),
        ({"mult": ()}, "mult"),
        ({"attn_resolutions": (3,)}, "attn_resolutions"),
        ({"base": 0}, "base"),
        ({"num_classes": -1}, "num_classes"),
        ({"base": 6, "mult": (1, 3), "head_channels": 4}, "head_channels"),
    ],
)
def test_networks_that_cannot_be_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _net(**options)


def test_calls_that_cannot_be_are_refused() -> None:
    net = _net()
    x, t = _input()
    for call, message in (
        (lambda: net(x[:, :1], t), "shape"),
        (lambda: net(x, t, taps=(0,)), "numbered from 1 to 9"),
        (lambda: net(x, t, taps=(10,)), "numbered from 1 to 9"),
        (lambda: net(x, t, taps=(5,), stop_at=4), "behind the early exit"),
        (lambda: net(x, t, stop_at=10), "numbered"),
        (lambda: net(x, t, torch.zeros(3, dtype=torch.long)), "num_classes=0"),
        (lambda: _net(num_classes=4)(x, t), "needs labels"),
        (lambda: net.partner(0), "index"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
