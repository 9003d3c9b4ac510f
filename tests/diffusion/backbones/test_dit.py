"""The diffusion transformer: fresh, it is the identity; taps are the blocks' outputs; an early exit saves the rest."""

import pytest
import torch

from holdfast.core.random import isolated_rng
from holdfast.diffusion import DiT, LabelEmbedding, Transformer, sincos_positions
from holdfast.diffusion.backbones.embeddings import TimeEmbedding, sinusoid

X, T = torch.randn(3, 2, 8, 12, generator=torch.Generator().manual_seed(0)), torch.tensor([0.1, 0.5, 0.9])


def make(fresh=False, **options):
    with isolated_rng(0):
        net = DiT(2, (8, 12), patch=4, width=16, depth=3, heads=2, **options)
        if not fresh:
            for p in net.parameters():
                p.data += 0.1 * torch.randn_like(p)
    return net


def test_a_fresh_network_says_zero_and_its_blocks_are_the_identity():
    net = make(fresh=True)
    out = net(X, T, taps=(1, 2, 3))
    assert not bool(out.pred.any())
    for h in out.taps.values():
        assert torch.equal(h, net.tokens(X))


@pytest.mark.parametrize("options", [{}, {"rope": True, "qk_norm": True}, {"num_classes": 4}])
def test_an_early_exit_gives_the_taps_of_the_whole_pass_bit_for_bit(options):
    net = make(**options)
    y = (torch.tensor([0, 1, 4]),) if "num_classes" in options else ()
    whole = net(X, T, *y, taps=(1, 2, 3))
    for stop in (1, 2, 3):
        early = net(X, T, *y, taps=tuple(range(1, stop + 1)), stop_at=stop)
        assert early.pred is None
        assert all(torch.equal(early.taps[k], whole.taps[k]) for k in early.taps)


def test_blocks_behind_the_exit_are_not_run():
    net = make()
    net.blocks.blocks[2].forward = None
    net(X, T, taps=(2,), stop_at=2)
    with pytest.raises(TypeError):
        net(X, T)


def test_pixels_come_back_where_their_patch_was():
    net = make(fresh=True)
    net.head.bias.data = torch.arange(4 * 4 * 2).float()
    pred = net(X, T).pred
    assert pred.shape == X.shape
    patch = net.head.bias.data.view(4, 4, 2).permute(2, 0, 1)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(pred[0, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4], patch)


def test_one_time_for_all_tokens_is_one_time_per_sample():
    net = make()
    torch.testing.assert_close(net(X, T[:, None].expand(3, 6)).pred, net(X, T).pred)


def test_tokens_of_other_groups_are_not_seen():
    net = make()
    groups = torch.tensor([[0, 0, 0, 1, 1, 1]]).expand(3, 6)
    changed = X.clone()
    changed[:, :, 4:] += 1  # the lower row of patches
    a, b = (net(x, T, taps=(3,), groups=groups).taps[3] for x in (X, changed))
    assert torch.equal(a[:, :3], b[:, :3])
    assert not torch.allclose(a[:, 3:], b[:, 3:])


def test_labels_and_time_change_the_output_and_the_network_itself_drops_none():
    net = make(num_classes=4, class_dropout=0.9).train()
    y = torch.tensor([0, 1, 2])
    assert torch.equal(net(X, T, y).pred, net(X, T, y).pred)
    assert not torch.allclose(net(X, T, y).pred, net(X, T, torch.full((3,), net.null_class)).pred)
    assert not torch.allclose(net(X, T, y).pred, net(X, T + 0.1, y).pred)


def test_positions_tell_every_place_and_depend_on_it_alone():
    p = sincos_positions(4, 6, 16)
    assert len(p.unique(dim=0)) == 24
    torch.testing.assert_close(p.square().sum(1), torch.full((24,), 8.0))
    rows = p.view(4, 6, 16)
    assert torch.equal(rows[0, :, :8], rows[3, :, :8])  # the first half tells the column
    assert torch.equal(rows[:, 0, 8:], rows[:, 5, 8:])


def test_sinusoids_have_norm_one_per_frequency_and_time_is_scaled():
    s = sinusoid(torch.tensor([0.0, 3.0]), 8)
    torch.testing.assert_close(s[:, :4].square() + s[:, 4:].square(), torch.ones(2, 4))
    with isolated_rng(0):
        a = TimeEmbedding(8, time_scale=1000.0)
    with isolated_rng(0):
        b = TimeEmbedding(8)
    torch.testing.assert_close(a(T), b(1000 * T))


def test_masked_tokens_change_nothing_for_the_others():
    with isolated_rng(0):
        net = Transformer(8, depth=2, heads=2)
    h = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True, True, True, False, False]]).expand(2, 5)
    torch.testing.assert_close(net(h, mask=mask)[0][:, :3], net(h[:, :3])[0])


def test_bad_input_is_refused():
    net = make(num_classes=4)
    y = torch.tensor([0, 1, 2])
    for call, match in (
        (lambda: DiT(1, 9, patch=4, width=16, depth=1, heads=2), "patch must divide the image, got patch=4 for 9 x 9"),
        (lambda: DiT(1, 8, patch=4, width=18, depth=1, heads=2), "divisible by 4, got 18"),
        (lambda: DiT(1, 8, patch=4, width=16, depth=1, heads=3), "heads"),
        (lambda: net(X, T, y, taps=(4,)), "numbered from 1 to 3, got 4"),
        (lambda: net(X, T, y, taps=(0,)), "numbered from 1 to 3, got 0"),
        (lambda: net(X, T, y, taps=(3,), stop_at=2), "tap 3 lies behind the early exit after block 2"),
        (lambda: net(X, T, torch.tensor([0, 1, 5])), r"\[0, 4\) or be 4 for none, got 0 to 5"),
        (lambda: net(X, T), "needs labels"),
        (lambda: make()(X, T, y), "takes no labels"),
        (lambda: net(X[:, :1], T, y), r"\(n, 2, 8, 12\), got \(3, 1, 8, 12\)"),
        (lambda: LabelEmbedding(0, 8), "num_classes"),
        (lambda: Transformer(8, 2, 2, modulated=True)(torch.zeros(1, 2, 8)), "need a condition"),
        (lambda: Transformer(8, 2, 2, rope=(4,))(torch.zeros(1, 3, 8)), "made for 4 tokens, got 3"),
        (lambda: Transformer(8, 2, 2, modulated=True, dropout=0.1), "no dropout"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
