"""Heads on feature maps, and their training."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from holdfast.core.random import generator, isolated_rng
from holdfast.diffusion.backbones.unet import UNet
from holdfast.diffusion.backbones.unet_blocks import wake_zero_layers
from holdfast.diffusion.ddpm import DDPMSchedule
from holdfast.diffusion.denoiser import Denoiser
from holdfast.diffusion.features import DiffusionFeatures
from holdfast.diffusion.feedback import DecoderFeedback
from holdfast.diffusion.head_training import crop_and_flip, head_logits, train_head
from holdfast.diffusion.heads import AttentionHead, ConvHead, FusionHead, LinearHead, MLPHead

SMALL = {"dim": 16, "blocks": 1, "heads": 2}


def _model() -> Denoiser:
    with isolated_rng(100):
        network = UNet(1, 8, 8, (1, 2), 1)
    wake_zero_layers(network, generator(100))
    return Denoiser(network, DDPMSchedule(), "noise")


def _data(n: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    """Two classes: bright on the left or on the right."""
    y = torch.arange(n) % 2
    x = torch.rand(n, 1, 8, 8, generator=generator(100)) - 1
    half = torch.arange(8) < 4
    return x + (half[None] == (y[:, None] == 0)).float()[:, None, None, :], y


def _maps(n: int = 6) -> torch.Tensor:
    return torch.randn(n, 8, 4, 4, generator=generator(101))


def test_linear_head_is_linear_in_the_pooled_map() -> None:
    head = LinearHead(8, 3, pool=2)
    h = _maps()
    expected = nn.functional.adaptive_avg_pool2d(h, 2).flatten(1) @ head.layers[0].weight.T + head.layers[0].bias
    torch.testing.assert_close(head(h), expected)


def test_attention_head_does_not_see_the_order_of_places_unless_told() -> None:
    h = _maps()
    order = torch.randperm(16, generator=generator(2))
    shuffled = h.flatten(2)[..., order].unflatten(2, (4, 4))
    with isolated_rng(100):
        head, placed = AttentionHead(8, 3, **SMALL).eval(), AttentionHead(8, 3, positions=(4, 4), **SMALL).eval()
    torch.testing.assert_close(head(shuffled), head(h), atol=1e-6, rtol=1e-5)
    assert not torch.allclose(placed(shuffled), placed(h), atol=1e-4)


def test_attention_head_reads_tokens_as_it_reads_the_map_of_them() -> None:
    with isolated_rng(100):
        head = AttentionHead(8, 3, **SMALL).eval()
        tokens = AttentionHead(8, 3, tokens_from="tokens", **SMALL).eval()
    tokens.load_state_dict(head.state_dict())
    h = _maps()
    torch.testing.assert_close(tokens(h.flatten(2).mT), head(h))


def test_attention_head_pools_maps_larger_than_its_side_only() -> None:
    with isolated_rng(100):
        head = AttentionHead(8, 3, side=2, **SMALL).eval()
    h = _maps()
    torch.testing.assert_close(head(h), head(nn.functional.avg_pool2d(h, 2)))
    assert (
        not hasattr(head.reader.blocks[0].attention.query, "bias") or head.reader.blocks[0].attention.query.bias is None
    )


def test_channels_last_maps_train_as_others_do() -> None:
    with isolated_rng(100):
        head = AttentionHead(8, 3, **SMALL)
    grads = []
    for h in (_maps(), _maps().to(memory_format=torch.channels_last)):
        grads.append(torch.autograd.grad(head(h).square().sum(), list(head.parameters())))
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_fusion_of_one_map_is_the_attention_head() -> None:
    with isolated_rng(100):
        fusion, head = FusionHead({(90, 4): 8}, 3, **SMALL).eval(), AttentionHead(8, 3, **SMALL).eval()
    head.tokens.load_state_dict(fusion.tokens[0].state_dict())
    head.reader.load_state_dict(fusion.readers[0].state_dict())
    head.classify.load_state_dict(fusion.classify.state_dict())
    torch.testing.assert_close(fusion({(90.0, 4): _maps()}), head(_maps()))


def test_fusion_looks_at_every_block_of_every_time() -> None:
    channels = {(90.0, 4): 8, (90.0, 6): 16, (300.0, 4): 8, (300.0, 6): 16}
    with isolated_rng(100):
        head = FusionHead(channels, 3, **SMALL).eval()
    maps = {k: torch.randn(2, c, 4, 4, generator=generator(i)) for i, (k, c) in enumerate(channels.items())}
    out = head(maps)
    for key in channels:
        assert not torch.allclose(head(maps | {key: -maps[key]}), out, atol=1e-5)


@pytest.mark.parametrize(
    "head",
    [
        lambda: LinearHead(16, 2, pool=2),
        lambda: MLPHead(16, 2, hidden=(16,), pool=2),
        lambda: ConvHead(16, 2, width=16),
        lambda: AttentionHead(16, 2, positions=(4, 4), **SMALL),
    ],
    ids=["linear", "perceptron", "convolutions", "attention"],
)
def test_every_head_learns_from_features_with_fresh_noise_and_leaves_the_network_alone(head) -> None:
    model, (x, y) = _model(), _data()
    before = copy.deepcopy(model.state_dict())
    features = DiffusionFeatures(model, 90, 4, pool=None, noise="fresh")
    with isolated_rng(100):
        head = head()
    train_head(head, x, y, features=features, epochs=25, lr=1e-2, optimizer="adam", batch_size=24, device="cpu")
    right = head_logits(head, x, features=features, generator=generator(5)).argmax(1) == y
    assert float(right.float().mean()) > 0.9
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_cached_and_streamed_fixed_noise_train_the_same_head() -> None:
    model, (x, y) = _model(), _data()
    features = DiffusionFeatures(model, 90, 5, pool=2)
    with isolated_rng(100):
        a, b = LinearHead(16, 2, pool=2), LinearHead(16, 2, pool=2)
    b.load_state_dict(a.state_dict())
    train_head(a, features.extract(x), y, epochs=4, batch_size=20, device="cpu")
    train_head(b, x, y, features=features, epochs=4, batch_size=20, device="cpu")
    torch.testing.assert_close(a.layers[0].weight, b.layers[0].weight, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        head_logits(a, features.extract(x)), head_logits(b, x, features=features), atol=1e-4, rtol=0
    )


def test_fine_tuning_moves_the_network_and_feedback_moves_alone() -> None:
    (x, y), model = _data(), _model()
    features = DiffusionFeatures(model, 90, 5, frozen=False)
    before = copy.deepcopy(model.state_dict())
    train_head(LinearHead(16, 2), x, y, features=features, epochs=1, backbone_lr=1e-3, device="cpu")
    moved = [k for k, v in model.state_dict().items() if not torch.equal(v, before[k])]
    assert any(k.startswith("network.layers.4") for k in moved)
    assert not any(k.startswith("network.out") for k in moved)

    model = _model()
    before = copy.deepcopy(model.state_dict())
    feedback = DecoderFeedback(model.network, (7,))
    start = copy.deepcopy(feedback.state_dict())
    features = DiffusionFeatures(model, 90, 5, feedback=feedback)
    train_head(LinearHead(16, 2), x, y, features=features, epochs=1, device="cpu")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not all(torch.equal(v, start[k]) for k, v in feedback.state_dict().items())


def test_several_maps_train_a_fusion_head() -> None:
    model, (x, y) = _model(), _data()
    table = DiffusionFeatures(model, (10, 90), (3, 5), pool=None).extract(x)
    with isolated_rng(100):
        head = FusionHead({k: h.shape[1] for k, h in table.maps.items()}, 2, **SMALL)
    result = train_head(head, table, y, epochs=20, lr=1e-2, optimizer="adam", device="cpu")
    assert float((head_logits(head, table).argmax(1) == y).float().mean()) > 0.9
    assert result.steps == 20


def test_crops_move_the_image_and_mirror_about_half() -> None:
    x = torch.arange(25.0).reshape(1, 1, 5, 5).expand(200, 1, 5, 5)
    still = crop_and_flip(x, generator(0), pad=0)
    mirrored = (still == x.flip(3)).flatten(1).all(1)
    assert 70 < int(mirrored.sum()) < 130
    assert bool((mirrored | (still == x).flatten(1).all(1)).all())
    moved = crop_and_flip(x, generator(0), pad=1, flip=False)
    places = moved[:, 0, 2, 2].unique().tolist()
    assert places == [6, 7, 8, 11, 12, 13, 16, 17, 18]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LinearHead(8, 3, pool=5)(_maps()), "pool=5"),
        (lambda: LinearHead(9, 3)(_maps()), "shape"),
        (lambda: AttentionHead(8, 3, dim=15, blocks=1, heads=2), "heads"),
        (lambda: AttentionHead(8, 3, positions=(2, 2), **SMALL)(_maps()), "positions were made for 4"),
        (lambda: AttentionHead(8, 3, tokens_from="tokens", **SMALL)(_maps()), "tokens must have shape"),
        (lambda: FusionHead({(90, 4): 8, (90, 6): 16}, 3, project=False, **SMALL), "in common"),
        (lambda: FusionHead({}, 3, **SMALL), "at least one"),
        (lambda: FusionHead({(90, 4): 8}, 3, **SMALL)({(10.0, 4): _maps()}), "lacks"),
        (lambda: train_head(LinearHead(8, 3), _maps(), torch.zeros(5)), "lengths differ"),
        (lambda: train_head(LinearHead(8, 3), _maps(), torch.zeros(6), backbone_lr=1e-3), "backbone_lr needs"),
        (lambda: train_head(LinearHead(8, 3), _maps(), torch.zeros(6), augment=crop_and_flip), "augment needs"),
        (
            lambda: train_head(
                LinearHead(8, 2), *_data(), features=DiffusionFeatures(_model(), 90, 5), backbone_lr=1e-3
            ),
            "frozen=False",
        ),
        (
            lambda: train_head(LinearHead(8, 2), *_data(), features=DiffusionFeatures(_model(), 90, 5, frozen=False)),
            "give backbone_lr",
        ),
    ],
)
def test_bad_input_is_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
