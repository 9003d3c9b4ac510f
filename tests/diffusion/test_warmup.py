"""Warm-up of the first blocks, and their place in the full network."""

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
    ExponentialDecay,
    FrozenEncoder,
    LinearPath,
    UNet,
    WarmupConfig,
    embed_weights,
    embedded_warmup,
    train_diffusion,
    truncate,
)

X = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
T = torch.tensor([0.0, 0.3, 1.0])


def make(seed=0, fresh=True, depth=5, **options):
    with isolated_rng(seed):
        net = DiT(1, 8, **({"patch": 4, "width": 16, "heads": 2} | options), depth=depth)
        if not fresh:
            for p in net.parameters():
                p.data += 0.1 * torch.randn_like(p)
    return net


def term(depth=2, **options):
    with isolated_rng(1):
        encoder = FrozenEncoder(nn.Conv2d(1, 6, 4, 4))
    return AlignmentLoss(depth, encoder, width=16, dim=6, hidden=16, **options)


@pytest.mark.parametrize("options", [{}, {"rope": True}, {"qk_norm": True}, {"num_classes": 3, "rope": True}])
def test_a_short_network_has_the_taps_of_the_whole(options):
    net = make(fresh=False, **options)
    short = truncate(net, 3)
    y = (torch.tensor([0, 1, 3]),) if "num_classes" in options else ()
    a, b = short(X[:3], T, *y, taps=(1, 2, 3)), net(X[:3], T, *y, taps=(1, 2, 3))
    assert a.pred is None
    assert all(torch.equal(a.taps[k], b.taps[k]) for k in (1, 2, 3))
    assert all(p.data_ptr() != q.data_ptr() for p, q in zip(short.parameters(), net.parameters()))


def test_after_transfer_the_full_network_gives_the_warmed_tap_and_still_says_zero():
    short, net = truncate(make(fresh=False), 2), make(seed=1)
    report = embed_weights(short, net)
    out = net(X[:3], T, taps=(2, 5))
    torch.testing.assert_close(out.taps[2], short(X[:3], T, taps=(2,)).taps[2], atol=1e-6, rtol=0)
    assert torch.equal(out.taps[5], out.taps[2])  # fresh blocks are the identity
    assert not bool(out.pred.any())
    theirs, ours = (dict((*m.named_parameters(), *m.named_buffers())) for m in (short, net))
    assert all(torch.equal(theirs[k], ours[k]) for k in report.copied)
    assert report.skipped == ()


@pytest.mark.parametrize(
    ("place", "numbers"), [("start", (1, 2)), ("middle", (2, 3)), ("end", (4, 5)), ((1, 4), (1, 4))]
)
def test_blocks_go_to_their_place_and_the_others_stay(place, numbers):
    short, net = truncate(make(fresh=False), 2), make(seed=1)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    report = embed_weights(short, net, place, include=())
    source = [short.blocks.blocks[i].state_dict() for i in range(2)]
    for number, block in enumerate(net.blocks.blocks, start=1):
        if number in numbers:
            expected = source[numbers.index(number)]
        else:
            start = f"blocks.blocks.{number - 1}."
            expected = {k.removeprefix(start): v for k, v in before.items() if k.startswith(start)}
        assert all(torch.equal(v, expected[k]) for k, v in block.state_dict().items())
    assert torch.equal(net.embed.weight, before["embed.weight"])
    assert any(name.startswith("embed.") for name in report.skipped)


def test_the_report_leaves_no_tensor_out():
    short, net = truncate(make(), 2), make(seed=1)
    report = embed_weights(short, net, include=("patch",))
    names = {n for n, _ in (*net.named_parameters(), *net.named_buffers())}
    assert set(report.copied) | set(report.fresh) == names
    assert not set(report.copied) & set(report.fresh)


def test_without_warm_up_steps_it_is_alignment_bit_for_bit_and_without_weight_plain_training():
    options = {"batch_size": 8, "lr": 1e-2, "device": "cpu", "seed": 4, "ema": None}

    def warm(weight):
        model = Denoiser(make(), LinearPath())
        embedded_warmup(model, X, warmup=WarmupConfig(2, steps=0), term=term(weight=weight), steps=3, **options)
        return model.state_dict()

    def single(terms):
        model = Denoiser(make(), LinearPath())
        train_diffusion(model, X, terms=terms, steps=3, **options)
        return model.state_dict()

    aligned, plain = single([term(weight=0.5)]), single([])
    for found, expected in (
        (warm(ExponentialDecay(0.5, math.inf)), aligned),
        (warm(0.0), plain),
    ):
        assert all(torch.equal(found[k], expected[k]) for k in expected)


def test_warm_up_costs_its_blocks_and_leaves_the_rest_to_the_second_phase():
    model = Denoiser(make(), LinearPath())
    result = embedded_warmup(
        model, X, warmup=WarmupConfig(2, steps=4), term=term(), steps=3, batch_size=8, device="cpu"
    )
    assert [(r.name, r.steps, r.blocks, r.cost) for r in result.records] == [
        ("warm-up", 4, 2, 8),
        ("training", 3, 5, 15),
    ]
    assert "denoising" not in result.records[0].result.history[-1]
    assert result.records[1].report.skipped == ()


def test_the_loss_of_a_batch_is_the_mean_over_its_samples_and_each_has_a_gradient():
    short = Denoiser(truncate(make(fresh=False), 2), LinearPath())
    objective = DiffusionObjective(short, [term()], denoise=False, time=0.0, stop_at=2)

    def loss(x):
        return objective(short, {"x": x}, StepInfo(0, 10, 0, torch.Generator().manual_seed(0)))["loss"]

    x = X[:6].clone().requires_grad_()
    whole = loss(x)
    torch.testing.assert_close(whole, torch.stack([loss(X[i : i + 1]) for i in range(6)]).mean(), atol=1e-6, rtol=0)
    (grad,) = torch.autograd.grad(whole, x)
    assert bool((grad.flatten(1).abs().sum(1) > 0).all())


def test_warm_up_brings_features_towards_the_encoder():
    model, t = Denoiser(make(), LinearPath()), term()
    result = embedded_warmup(
        model, X, warmup=WarmupConfig(2, steps=60), term=t, steps=1, batch_size=16, lr=3e-3, device="cpu"
    )
    history = [row["alignment"] for row in result.records[0].result.history]
    assert history[-1] < history[0] - 0.2


def test_bad_regions_places_and_networks_are_refused():
    net = make()
    for call, match in (
        (lambda: WarmupConfig(0, 5), "region"),
        (lambda: WarmupConfig(2, -1), "steps"),
        (lambda: WarmupConfig(2, 5, weight=0.0), "weight"),
        (lambda: WarmupConfig(2, 5, time=-0.1), "time"),
        (lambda: WarmupConfig(range(2, 4), 5, place="end"), "leave out place"),
        (lambda: WarmupConfig(5, 5).places(5), "region"),
        (lambda: WarmupConfig(2, 5, place=5).places(5), "blocks 1 to 5, got \\(5, 6\\)"),
        (lambda: WarmupConfig(2, 5, place=(3, 3)).places(5), "overlap"),
        (lambda: WarmupConfig(2, 5, place=(3,)).places(5), "2 blocks need 2 places"),
        (lambda: WarmupConfig(2, 5, place="top").places(5), "'top'"),
        (lambda: truncate(net, 5), "blocks"),
        (lambda: embed_weights(net, make()), "fewer blocks than the target, got 5 and 5"),
        (lambda: embed_weights(truncate(make(width=32), 2), net), "differ in their width: 32"),
        (lambda: embed_weights(truncate(make(heads=4), 2), net), "number of heads"),
        (lambda: embed_weights(truncate(make(rope=True), 2), net), "positional scheme"),
        (lambda: embed_weights(truncate(make(patch=2), 2), net), "grid of patches"),
        (lambda: embed_weights(truncate(make(time_scale=1000.0), 2), net), "time scale"),
        (lambda: embed_weights(truncate(net, 2), net, include=("head",)), "'head'"),
        (lambda: ExponentialDecay(-0.1, 5), "start"),
        (lambda: ExponentialDecay(0.1, -5), "half_life"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
    unet = Denoiser(UNet(1, size=8, base=8, mult=(1, 2), blocks_per_level=1), LinearPath())
    with pytest.raises(TypeError, match="DiT, got UNet"):
        embedded_warmup(unet, X, warmup=WarmupConfig(1, 2), term=term(1), steps=1)
