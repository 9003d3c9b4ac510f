import pytest
import torch

from holdfast.diffusion.backbones.bit_transformer import BitTransformer


def made(**kwargs):
    torch.manual_seed(0)
    net = BitTransformer(3, (2, 4), width=16, depth=3, heads=2, steps=8, **kwargs)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net.eval()


def bits(n=5):
    return (torch.rand(n, 3, 2, 4, generator=torch.Generator().manual_seed(0)) < 0.5).float()


@pytest.mark.parametrize("condition", ["token", "modulated"])
def test_taps_hold_the_cells_and_early_exit_changes_nothing_before_it(condition):
    net, t = made(condition=condition), torch.tensor([1, 2, 3, 4, 8])
    full = net(bits(), t, taps=(1, 2, 3))
    assert full.pred.shape == (5, 3, 2, 4)
    assert {k: v.shape for k, v in full.taps.items()} == dict.fromkeys((1, 2, 3), (5, 8, 16))
    early = net(bits(), t, taps=(2,), stop_at=2)
    assert early.pred is None
    torch.testing.assert_close(early.taps[2], full.taps[2])


@pytest.mark.parametrize("condition", ["token", "modulated"])
def test_time_and_class_matter_and_rows_do_not_mix(condition):
    net = made(condition=condition, num_classes=4)
    z, t, y = bits(), torch.tensor([1, 2, 3, 4, 8]), torch.tensor([0, 1, 2, 3, 4])
    out = net(z, t, y).pred
    for i in range(5):
        torch.testing.assert_close(net(z[i : i + 1], t[i : i + 1], y[i : i + 1]).pred[0], out[i], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(net(z, t.flip(0), y).pred, out)
    assert not torch.allclose(net(z, t, y.flip(0)).pred, out)


def test_cells_are_told_apart_by_their_places_alone():
    net, t = made(), torch.tensor([3])
    z = bits(1)
    moved = net(z.flip(3), t).pred.flip(3)
    assert not torch.allclose(moved, net(z, t).pred, atol=1e-4)
    net.positions.zero_()
    torch.testing.assert_close(net(z.flip(3), t).pred.flip(3), net(z, t).pred, atol=1e-5, rtol=1e-4)


def test_time_one_is_the_first_row_of_the_table():
    net, z = made(), bits(1)
    before = net(z, torch.tensor([1])).pred
    with torch.no_grad():
        net.time.weight[1:].zero_()
    torch.testing.assert_close(net(z, torch.tensor([1])).pred, before)
    with torch.no_grad():
        net.time.weight[0].zero_()
    assert not torch.allclose(net(z, torch.tensor([1])).pred, before)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: made()(torch.zeros(1, 3, 4, 4), torch.tensor([1])), r"\(n, 3, 2, 4\), got \(1, 3, 4, 4\)"),
        (lambda: made()(bits(1), torch.tensor([0])), r"t must lie in 1\.\.8"),
        (lambda: made()(bits(1), torch.tensor([9])), r"t must lie in 1\.\.8"),
        (lambda: made()(bits(1), torch.tensor([0.5])), "one whole number per sample"),
        (lambda: made()(bits(1), torch.tensor([1]), torch.tensor([0])), "takes no labels"),
        (lambda: made(num_classes=2)(bits(1), torch.tensor([1])), "needs labels"),
        (lambda: made(num_classes=2)(bits(1), torch.tensor([1]), torch.tensor([3])), r"labels must lie in \[0, 2\)"),
        (lambda: made()(bits(1), torch.tensor([1]), taps=(4,)), "numbered from 1 to 3"),
        (lambda: BitTransformer(0, (2, 2)), "channels must be in"),
        (lambda: made(condition="concat"), "condition must be one of"),
        (lambda: made(condition="modulated", dropout=0.1), "modulated blocks have no dropout"),
    ],
)
def test_bad_input_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
