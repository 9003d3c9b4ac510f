from __future__ import annotations

import pytest
import torch
from torch import nn

from holdfast.diffusion.backbones.vit import ViTEncoder
from holdfast.diffusion.finetune import finetune, layer_decay_groups, mix_images, stochastic_depth


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def encoder(depth=3):
    torch.manual_seed(0)
    return ViTEncoder(1, 8, patch=4, width=16, depth=depth, heads=2, dropout=0.0)


def test_rates_fall_from_the_head_to_the_embedding_and_every_parameter_is_in_one_group():
    net, head = encoder(), nn.Linear(16, 2)
    whole = nn.ModuleList([net, head])
    groups = layer_decay_groups(whole, list(net.transformer.blocks), [net.norm, head], lr=1.0, decay=0.5)
    rate = {p: g["lr"] for g in groups for p in g["params"]}
    listed = [p for g in groups for p in g["params"]]
    assert len(listed) == len(set(listed)) == len(list(whole.parameters()))
    assert rate[head.weight] == rate[net.norm.weight] == 1.0
    assert [rate[b.mlp[0].weight] for b in net.transformer.blocks] == [0.5**3, 0.5**2, 0.5]
    assert rate[net.embed.weight] == rate[net.cls] == 0.5**4
    decays = {p: g.get("weight_decay") for g in groups for p in g["params"]}
    assert decays[head.bias] == 0.0
    assert decays[head.weight] is None


def test_stochastic_depth_is_unbiased_in_training_and_absent_in_evaluation():
    blocks = [nn.Linear(1, 1) for _ in range(3)]
    x = torch.ones(20_000, 1)
    source = rng()
    with torch.no_grad():
        whole = [b(x)[0] for b in blocks]
        with stochastic_depth(blocks, 0.4, lambda: source):
            for block, y, p in zip(blocks, whole, (0.0, 0.2, 0.4)):
                out = block(x)
                kept = (out != x).double().mean()
                assert abs(float(kept) - (1 - p)) < 0.02
                torch.testing.assert_close(out.mean(0), y, atol=0.05, rtol=0.05)
            blocks[2].eval()
            torch.testing.assert_close(blocks[2](x)[0], whole[2])
        blocks[2].train()
        torch.testing.assert_close(blocks[2](x)[0], whole[2])  # nothing is left behind


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0)])
def test_labels_are_mixed_as_the_images_are(mixup, cutmix):
    # Image i is constant i: its mean under the mix is the mean of the labels' values.
    n = 16
    x = torch.arange(n, dtype=torch.float32)[:, None, None, None].expand(n, 1, 10, 12)
    for seed in range(8):
        mixed, labels = mix_images(x, torch.eye(n), mixup, cutmix, rng(seed))
        torch.testing.assert_close(mixed.mean((1, 2, 3)), labels @ torch.arange(n, dtype=torch.float32))
        torch.testing.assert_close(labels.sum(1), torch.ones(n))


def test_without_mixing_everything_stays():
    x = torch.rand(4, 1, 8, 8, generator=rng())
    mixed, labels = mix_images(x, torch.eye(4), 0.0, 0.0, rng())
    assert torch.equal(mixed, x)
    assert torch.equal(labels, torch.eye(4))


def test_fine_tuning_learns_leaves_the_encoder_alone_and_repeats():
    x = torch.rand(64, 1, 8, 8, generator=rng())
    y = torch.arange(64) % 2
    x[y == 1, :, :4] *= 0.3
    net = encoder(2)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    options = {"epochs": 20, "batch_size": 16, "lr": 3e-3, "mixup": 0.0, "cutmix": 0.0, "device": "cpu"}
    a, b = (finetune(net, x, y, seed=3, **options) for _ in range(2))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(a(x), b(x))
    assert float((a(x).argmax(1) == y).float().mean()) > 0.85


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x, y: finetune(nn.Linear(2, 2), x, y), TypeError, "must offer features"),
        (lambda x, y: finetune(encoder(), x, y[:3]), ValueError, "lengths differ"),
        (lambda x, y: finetune(encoder(), x, y, classes=1), ValueError, r"must lie in \[0, 1\)"),
        (lambda x, y: finetune(encoder(), x, y, epochs=0), ValueError, "epochs must be in"),
        (lambda x, y: finetune(encoder(), x, y, layer_decay=0.0), ValueError, "decay must be in"),
        (lambda x, y: finetune(encoder(), x, y, drop_path=1.0), ValueError, "rate must be in"),
        (lambda x, y: finetune(encoder(), x, y, mixup=-1.0), ValueError, "mixup must be in"),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(torch.rand(8, 1, 8, 8), torch.arange(8) % 2)
