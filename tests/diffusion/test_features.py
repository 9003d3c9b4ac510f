"""Features of a diffusion network: noise, pooling, early exit, tables and their cache, feedback."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from holdfast.core.random import generator, isolated_rng
from holdfast.diffusion.backbones.dit import DiT
from holdfast.diffusion.backbones.unet import UNet
from holdfast.diffusion.backbones.unet_blocks import wake_zero_layers
from holdfast.diffusion.ddpm import DDPMSchedule
from holdfast.diffusion.denoiser import Denoiser, Output
from holdfast.diffusion.feature_table import FeatureTable, model_hash
from holdfast.diffusion.features import DiffusionFeatures, pool_map
from holdfast.diffusion.feedback import DecoderFeedback
from holdfast.diffusion.paths import LinearPath


def _awake(network: nn.Module) -> nn.Module:
    wake_zero_layers(network, generator(100))
    return network


@pytest.fixture(scope="module")
def unet() -> Denoiser:
    with isolated_rng(100):
        network = UNet(1, 8, 8, (1, 2), 1, (4,))
    return Denoiser(_awake(network), DDPMSchedule(), "noise")


@pytest.fixture(scope="module")
def dit() -> Denoiser:
    with isolated_rng(100):
        network = DiT(1, 8, 2, width=16, depth=3, heads=2, num_classes=3)
    return Denoiser(_awake(network), LinearPath(), "velocity")


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(12, 1, 8, 8, generator=generator(100)) * 2 - 1


def test_a_feature_is_the_pooled_output_of_the_block_on_the_noised_image(unet: Denoiser, images) -> None:
    h = DiffusionFeatures(unet, 90, 6, pool=2, noise="fresh")(images, generator=generator(3))
    eps, t = torch.randn(images.shape, generator=generator(3)), torch.full((12,), 90.0)
    expected = pool_map(unet(unet.path.noise(images, eps, t), t, taps=(6,)).taps[6], 2)
    torch.testing.assert_close(h, expected)
    assert not h.requires_grad


def test_tokens_become_the_map_of_their_grid(dit: Denoiser, images) -> None:
    h = DiffusionFeatures(dit, 0.3, (1, 3), pool=None)(images, dit.network.null_class)
    assert {k: tuple(v.shape) for k, v in h.items()} == {(0.3, 1): (12, 16, 4, 4), (0.3, 3): (12, 16, 4, 4)}
    mean = DiffusionFeatures(dit, 0.3, 3, pool=1)(images, dit.network.null_class)
    torch.testing.assert_close(mean[:, :, 0, 0], h[0.3, 3].mean(dim=(2, 3)))


def test_one_pass_serves_all_blocks_and_ends_after_the_last(unet: Denoiser, images) -> None:
    calls: list[int] = []
    hooks = [
        layer.register_forward_hook(lambda *_, i=i: calls.append(i)) for i, layer in enumerate(unet.network.layers, 1)
    ]
    DiffusionFeatures(unet, (10, 90), (3, 6))(images)
    for hook in hooks:
        hook.remove()
    assert calls == [1, 2, 3, 4, 5, 6] * 2


def test_without_noise_in_the_image_the_feature_does_not_depend_on_the_noise(images) -> None:
    with isolated_rng(100):
        model = Denoiser(_awake(UNet(1, 8, 8, (1, 2), 1)), LinearPath())
    at_data = DiffusionFeatures(model, 0.0, 5, noise="fresh", pool=None)
    a, b = at_data(images, generator=generator(1)), at_data(images, generator=generator(2))
    torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
    later = DiffusionFeatures(model, 0.5, 5, noise="fresh", pool=None)
    assert not torch.allclose(later(images, generator=generator(1)), later(images, generator=generator(2)))


def test_fixed_noise_gives_identical_tables_whatever_the_batches(unet: Denoiser, images) -> None:
    features = DiffusionFeatures(unet, (10, 90), (2, 6), pool=2)
    once, again, small = (features.extract(images, batch_size=n) for n in (12, 12, 5))
    for key in features.keys:
        assert torch.equal(once[key], again[key])
        torch.testing.assert_close(once[key], small[key], atol=1e-5, rtol=1e-5)
    other = DiffusionFeatures(unet, (10, 90), (2, 6), pool=2, seed=1).extract(images)
    assert not torch.allclose(once[90, 6], other[90, 6])


def test_shared_noise_makes_a_feature_depend_on_the_image_alone(unet: Denoiser, images) -> None:
    features = DiffusionFeatures(unet, 300, 6, noise="shared")
    torch.testing.assert_close(features(images)[[7]], features(images[[7]]), atol=1e-5, rtol=1e-5)
    fixed = DiffusionFeatures(unet, 300, 6, noise="fixed")
    assert not torch.allclose(fixed(images)[[7]], fixed(images[[7]]))
    torch.testing.assert_close(fixed(images)[[7]], fixed(images[[7]], rows=torch.tensor([7])), atol=1e-5, rtol=1e-5)


def test_the_variance_of_a_mean_over_k_draws_falls_as_one_over_k(unet: Denoiser, images) -> None:
    def variance(noise: str) -> float:
        draws = [DiffusionFeatures(unet, 300, 5, noise=noise, seed=s)(images[:4]) for s in range(60)]
        return float(torch.stack(draws).var(0).mean())

    one = variance("fixed")
    assert one / variance("mean:4") == pytest.approx(4, rel=0.3)
    assert one / variance("mean:8") == pytest.approx(8, rel=0.3)


def test_pooling_to_the_native_size_is_the_identity_and_to_one_the_mean() -> None:
    h = torch.randn(3, 5, 4, 4, generator=generator(0))
    assert pool_map(h, 4) is h
    assert pool_map(h, None) is h
    torch.testing.assert_close(pool_map(h, 1)[:, :, 0, 0], h.mean(dim=(2, 3)))


def test_vectors_have_maps_of_one_place() -> None:
    class Hidden(nn.Module):
        depth = 1

        def forward(self, x, t, y=None, *, taps=(), stop_at=None):
            return Output(None, {1: torch.cat([x, t[:, None]], 1)})

    model = Denoiser(Hidden(), LinearPath())
    h = DiffusionFeatures(model, 0.0, 1, bound=None)(torch.full((2, 3), 9.0))
    assert h[:, :, 0, 0].tolist() == [[9.0, 9.0, 9.0, 0.0]] * 2


def test_cached_tables_are_read_back_and_only_what_is_missing_is_computed(
    unet: Denoiser, images, tmp_path: Path
) -> None:
    calls: list[float] = []
    hook = unet.network.register_forward_pre_hook(lambda _, args: calls.append(float(args[1][0])))
    first = DiffusionFeatures(unet, (10, 90), (2, 6), pool=2).extract(images, cache=tmp_path)
    assert calls == [10, 90]
    more = DiffusionFeatures(unet, (90, 10, 300), (6,), pool=2).extract(images, cache=tmp_path)
    assert calls == [10, 90, 300]
    assert torch.equal(first[90, 6], more[90, 6])
    blocks = DiffusionFeatures(unet, 10, (2, 4), pool=2).extract(images, cache=tmp_path)
    assert calls == [10, 90, 300, 10]
    torch.testing.assert_close(blocks[10, 2], first[10, 2])
    # Other images, another pooling, other noise, other weights: nothing is taken for what it is not.
    for features, x in (
        (DiffusionFeatures(unet, 10, 2, pool=2), images + 0.0005),
        (DiffusionFeatures(unet, 10, 2, pool=1), images),
        (DiffusionFeatures(unet, 10, 2, pool=2, seed=1), images),
        (DiffusionFeatures(unet, 10, 2, pool=2, noise="shared"), images),
    ):
        n = len(calls)
        features.extract(x, cache=tmp_path)
        assert len(calls) == n + 1
    hook.remove()
    for file in tmp_path.iterdir():
        file.write_bytes(b"cut short")
    again = DiffusionFeatures(unet, (10, 90), (2, 6), pool=2).extract(images, cache=tmp_path)
    torch.testing.assert_close(again[90, 6], first[90, 6])


def test_the_hash_tells_weights_settings_and_paths_apart() -> None:
    def made(seed: int = 0, scale: float = 1.0, path=None) -> str:
        with isolated_rng(seed):
            network = UNet(1, 8, 8, (1, 2), 1, time_scale=scale)
        return model_hash(Denoiser(network, path or DDPMSchedule(), "noise"))

    assert made() == made()
    assert len({made(), made(1), made(scale=2.0), made(path=DDPMSchedule(500)), made(path=LinearPath())}) == 5


def test_a_table_names_what_it_has() -> None:
    table = FeatureTable({(90.0, 4): torch.arange(24.0).reshape(3, 2, 2, 2)})
    assert table.flat(90, 4).tolist()[0] == [0, 1, 2, 3, 4, 5, 6, 7]
    assert table.rows(torch.tensor([2]))[90, 4][0, 0, 0, 0] == 16
    with pytest.raises(KeyError, match="no features of time 10"):
        table[10, 4]


def test_feedback_pools_where_an_upsampler_doubled_and_changes_what_comes_after(unet: Denoiser, images) -> None:
    with isolated_rng(100):
        feedback = DecoderFeedback(unet.network, (7, 9))
    plain = DiffusionFeatures(unet, 90, 6)(images)
    features = DiffusionFeatures(unet, 90, 6, feedback=feedback)
    h = features(images)
    assert not torch.allclose(h, plain)
    assert h.requires_grad
    h.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in feedback.parameters())
    assert all(p.grad is None for p in unet.parameters())
    torch.testing.assert_close(features.extract(images)[90, 6], h.detach(), atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        for p in feedback.parameters():
            p.zero_()
    torch.testing.assert_close(features(images), plain)


def test_gradients_reach_the_network_only_where_it_is_not_frozen(unet: Denoiser, images) -> None:
    h = DiffusionFeatures(unet, 90, 6, frozen=False)(images)
    grads = torch.autograd.grad(h.sum(), [*unet.network.layers[5].parameters()])
    assert all(g is not None for g in grads)
    features = DiffusionFeatures(unet, 90, 6).train()
    assert features.training
    assert not features.model.training


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"t": 1000}, r"t must be in \[0, 999\]"),
        ({"t": -1}, "t must be in"),
        ({"block": 10}, "numbered from 1 to 9, got 10"),
        ({"block": 0}, "numbered from 1 to 9"),
        ({"t": ()}, "at least one time"),
        ({"noise": "pink"}, "noise"),
        ({"noise": "mean:0"}, "draws"),
        ({"pool": 0}, "pool"),
        ({"bound": 0.0}, "bound"),
    ],
)
def test_settings_that_cannot_be_are_refused(unet: Denoiser, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiffusionFeatures(unet, **{"t": 90, "block": 5} | options)


def test_inputs_that_cannot_be_are_refused(unet: Denoiser, dit: Denoiser, images, tmp_path: Path) -> None:
    features = DiffusionFeatures(unet, 90, 5)
    features(images * 1.0005)  # rounding is forgiven
    for call, message in (
        (lambda: features(images * 1.1 + 0.2), r"images must lie in \[-1, 1\]"),
        (lambda: features(images * torch.nan), "finite"),
        (lambda: DiffusionFeatures(unet, 90, 5, pool=5)(images), "pool=5 for"),
        (lambda: DiffusionFeatures(unet, 90, 5, noise="fresh")(images), "generator"),
        (lambda: DiffusionFeatures(unet, 90, 5, noise="fresh").extract(images, cache=tmp_path), "cannot be kept"),
        (lambda: DiffusionFeatures(dit, 0.5, 1)(images), "class-conditional"),
        (lambda: DiffusionFeatures(dit, 0.5, 1).extract(images, torch.zeros(3)), "lengths differ"),
        (lambda: features.extract(images[:0]), "no samples"),
        (lambda: DecoderFeedback(unet.network, [2]), "way up, 6 to 9"),
        (lambda: DecoderFeedback(unet.network, []), "at least one"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="Denoiser"):
        DiffusionFeatures(unet.network, 90, 5)
    with pytest.raises(TypeError, match="UNet"):
        DecoderFeedback(dit.network, [2])
