"""Alignment of hidden states with a frozen encoder's view of the clean image."""

import math

import pytest
import torch
from torch import nn

from holdfast.core.random import isolated_rng
from holdfast.core.steps import StepInfo
from holdfast.diffusion import (
    AlignmentLoss,
    Denoiser,
    DiffusionObjective,
    DiT,
    FrozenEncoder,
    LinearPath,
    Projector,
    cosine_alignment,
    encode_all,
    ntxent_alignment,
    resample_tokens,
    train_diffusion,
)

X = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def tokens(seed, shape=(3, 5, 7)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def encoder(out=6, stride=4):
    with isolated_rng(1):
        return nn.Conv2d(1, out, stride, stride)


def make(**options):
    with isolated_rng(0):
        return Denoiser(DiT(1, 8, 4, 16, 3, 2, **options), LinearPath())


def term(target=None, **options):
    settings = {"width": 16, "dim": 6, "hidden": 16}
    return AlignmentLoss(options.pop("depth", 2), target or FrozenEncoder(encoder()), **(settings | options))


def info(step=0):
    return StepInfo(step, 10, 0, torch.Generator().manual_seed(0))


def test_cosine_is_minus_one_for_equal_directions_and_one_for_opposite_ones():
    h = tokens(0)
    scale = torch.rand(3, 5, 1) + 0.1
    torch.testing.assert_close(cosine_alignment(h, scale * h), -torch.ones(3))
    torch.testing.assert_close(cosine_alignment(h, -h), torch.ones(3))
    y = tokens(1)
    torch.testing.assert_close(cosine_alignment(scale * h, y), cosine_alignment(h, y), atol=1e-6, rtol=0)
    torch.testing.assert_close(cosine_alignment(h, scale * y), cosine_alignment(h, y), atol=1e-6, rtol=0)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(cosine_alignment(h[:, order], y[:, order]), cosine_alignment(h, y))


def test_contrast_is_the_cross_entropy_over_all_patches():
    h, y, tau = tokens(0, (2, 3, 4)), tokens(1, (2, 3, 4)), 0.5
    a, b = (nn.functional.normalize(v.flatten(0, 1), dim=1) for v in (h, y))
    expected = nn.functional.cross_entropy(a @ b.T / tau, torch.arange(6), reduction="none").view(2, 3).mean(1)
    torch.testing.assert_close(ntxent_alignment(h, y, tau), expected)
    same = torch.ones(2, 3, 4)
    torch.testing.assert_close(ntxent_alignment(same, same), torch.full((2,), math.log(6)))


@pytest.mark.parametrize("kind", ["cosine", "ntxent"])
def test_weight_zero_changes_no_bit_of_the_network(kind):
    def run(terms):
        model = make()
        train_diffusion(model, X, terms=terms, steps=3, batch_size=8, lr=1e-2, ema=None, device="cpu", seed=2)
        return model.state_dict()

    plain, silent, loud = run([]), run([term(weight=0.0, kind=kind)]), run([term(weight=1.0, kind=kind)])
    assert all(torch.equal(plain[k], silent[k]) for k in plain)
    assert any(not torch.equal(plain[k], loud[k]) for k in plain)


def test_encoder_is_never_trained_and_is_in_no_state_while_the_projector_is_trained_apart_from_the_network():
    net = nn.Sequential(encoder(), nn.BatchNorm2d(6))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    model, t = make(), term(FrozenEncoder(net))
    start = t.projectors[0].layers[0].weight.clone()
    train_diffusion(model, X, terms=[t], steps=3, batch_size=8, lr=1e-2, ema=None, device="cpu")
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert not net.training
    assert not any(p.requires_grad for p in net.parameters())
    assert not torch.equal(t.projectors[0].layers[0].weight, start)
    assert not any("projector" in k for k in model.state_dict())
    assert {k.split(".")[0] for k in t.state_dict()} == {"projectors"}


def test_gradients_reach_the_aligned_block_and_not_those_behind():
    model, t = make(), term(depth=2)
    for p in model.parameters():
        p.data += 0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(3))
    DiffusionObjective(model, [t], denoise=False)(model, {"x": X}, info())["loss"].backward()
    blocks = model.network.blocks.blocks
    assert all(p.grad is not None and bool(p.grad.any()) for p in blocks[1].mlp.parameters())
    assert all(p.grad is None or not bool(p.grad.any()) for p in blocks[2].parameters())


def test_targets_computed_in_advance_give_the_loss_of_the_encoder():
    model, source = make(), FrozenEncoder(encoder())
    named = term("view", seed=1)
    direct = term(source, seed=1)
    losses = [
        DiffusionObjective(model, [t])(model, {"x": X, "view": encode_all(source, X)}, info())["alignment"]
        for t in (named, direct)
    ]
    torch.testing.assert_close(*losses)


def test_several_encoders_have_their_own_projectors_and_the_mean_of_their_losses():
    model = make()
    a, b = FrozenEncoder(encoder(6)), FrozenEncoder(encoder(9))
    both = term([a, b], dim=[6, 9])
    parts = []
    for i, (one, dim) in enumerate(((a, 6), (b, 9))):
        single = term(one, dim=dim)
        single.projectors[0].load_state_dict(both.projectors[i].state_dict())
        parts.append(DiffusionObjective(model, [single])(model, {"x": X}, info())["alignment"])
    whole = DiffusionObjective(model, [both])(model, {"x": X}, info())["alignment"]
    torch.testing.assert_close(whole, (parts[0] + parts[1]) / 2)


def test_one_token_per_image_is_compared_with_the_mean_of_the_states():
    model = make()
    t = term("view", layers=1)
    y = tokens(5, (32, 1, 6))
    seen = DiffusionObjective(model, [t])(model, {"x": X, "view": y}, info())["alignment"]
    rng = torch.Generator().manual_seed(0)
    times, eps = torch.rand(32, generator=rng), torch.randn(X.shape, generator=rng)
    h = model(model.path.noise(X, eps, times), times, taps=(2,)).taps[2].mean(1, keepdim=True)
    torch.testing.assert_close(seen, cosine_alignment(t.projectors[0](h), y).mean())


def test_targets_on_another_grid_are_interpolated_once_with_a_warning_or_refused():
    model = make()
    fine = FrozenEncoder(encoder(stride=2))
    t = term(fine)
    with pytest.warns(UserWarning, match="16 tokens are interpolated to the network's 2 x 2 grid"):
        DiffusionObjective(model, [t])(model, {"x": X}, info())
    with pytest.raises(ValueError, match="16 tokens and the network 4"):
        DiffusionObjective(model, [term(fine, interpolate=False)])(model, {"x": X}, info())


def test_interpolation_keeps_constants_and_the_grid_it_has_and_knows_rows_from_columns():
    x = tokens(0, (2, 16, 3))
    assert torch.equal(resample_tokens(x, (4, 4)), x)
    ones = torch.ones(1, 12, 2)
    torch.testing.assert_close(resample_tokens(ones, (5, 2), source=(3, 4)), torch.ones(1, 10, 2))
    turned = x.view(2, 4, 4, 3).transpose(1, 2).flatten(1, 2)
    torch.testing.assert_close(
        resample_tokens(turned, (2, 3)), resample_tokens(x, (3, 2)).view(2, 3, 2, 3).transpose(1, 2).flatten(1, 2)
    )


def test_maps_tokens_and_vectors_become_tokens():
    class Returns(nn.Module):
        def __init__(self, out):
            super().__init__()
            self.out = out

        def forward(self, x):
            return self.out

    maps = tokens(0, (2, 3, 4, 5))
    torch.testing.assert_close(FrozenEncoder(Returns(maps)).encode(X[:2]), maps.flatten(2).transpose(1, 2))
    torch.testing.assert_close(FrozenEncoder(Returns(maps), tokens="image").encode(X[:2]), maps.mean((2, 3))[:, None])
    seq = tokens(0, (2, 17, 3))
    assert torch.equal(FrozenEncoder(Returns(seq)).encode(X[:2]), seq[:, 1:])  # 16 patches behind a class token
    assert torch.equal(FrozenEncoder(Returns(seq), tokens="class").encode(X[:2]), seq[:, :1])
    assert torch.equal(FrozenEncoder(Returns(seq), prefix=5).encode(X[:2]), seq[:, 5:])
    vectors = tokens(0, (2, 3, 1))[..., 0]
    assert FrozenEncoder(Returns(vectors), tokens="image").encode(X[:2]).shape == (2, 1, 3)
    with pytest.raises(ValueError, match="one vector per image"):
        FrozenEncoder(Returns(vectors)).encode(X[:2])
    with pytest.raises(ValueError, match="no class token"):
        FrozenEncoder(Returns(maps), tokens="class").encode(X[:2])


def test_bad_input_is_refused():
    model = make()
    zero = tokens(0, (32, 4, 6))
    zero[:8] = 0
    training = FrozenEncoder(nn.Sequential(encoder(), nn.Dropout(0.5)))
    training.module[1].train()
    for call, match in (
        (lambda: term(depth=0), "depth"),
        (lambda: DiffusionObjective(model, [term(depth=4)]), "reads block 4, the network has blocks 1 to 3"),
        (lambda: term([FrozenEncoder(encoder())], dim=[6, 6]), "1 targets, 2 dims"),
        (lambda: term(temperature=0.0), "temperature"),
        (lambda: term(kind="l2"), "'l2'"),
        (lambda: Projector(4, 0), "out"),
        (lambda: cosine_alignment(tokens(0), tokens(0)[:2]), "one shape"),
        (lambda: cosine_alignment(tokens(0, (32, 4, 6)), zero), "25.00% of the target tokens are all zero"),
        (lambda: DiffusionObjective(model, [term("view")])(model, {"x": X, "view": zero}, info()), "25.00%"),
        (lambda: DiffusionObjective(model, [term("view")])(model, {"x": X}, info()), "view"),
        (lambda: DiffusionObjective(model, [term(dim=5)])(model, {"x": X}, info()), "6 channels.*dim=5"),
        (lambda: training.encode(X), "'1' is in training mode"),
        (lambda: resample_tokens(tokens(0), (2, 2)), "no square grid"),
        (lambda: encode_all(FrozenEncoder(nn.ReLU(), tokens="image"), -X.abs()), "100.00%"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
    with pytest.raises(TypeError, match="must have encode"):
        term(object())
    with pytest.raises(TypeError, match="got int"):
        FrozenEncoder(3)
