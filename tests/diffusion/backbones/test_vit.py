from __future__ import annotations

import pytest
import torch

from holdfast.diffusion.backbones.vit import ViTEncoder


def encoder(**options):
    torch.manual_seed(0)
    return ViTEncoder(1, (8, 12), 4, width=16, depth=3, heads=2, **options).eval()


def images(n=3, seed=0):
    return torch.rand(n, 1, 8, 12, generator=torch.Generator().manual_seed(seed))


def test_taps_are_block_outputs_and_the_last_one_gives_the_output():
    net, x = encoder(), images()
    out = net(x, taps=(1, 3))
    assert sorted(out.taps) == [1, 3]
    torch.testing.assert_close(net.norm(out.taps[3]), torch.cat([out.cls[:, None], out.patches], 1))
    h = net.tokens(x)
    torch.testing.assert_close(out.taps[1], net.transformer.blocks[0](h))


def test_early_exit_gives_the_same_tap_and_no_output():
    net, x = encoder(), images()
    out = net(x, taps=(2,), stop_at=2)
    assert out.cls is None
    assert out.patches is None
    torch.testing.assert_close(out.taps[2], net(x, taps=(2,)).taps[2])


def test_patches_lie_row_by_row():
    net, x = encoder(), images(1)
    changed = x.clone()
    changed[:, :, 4:, 8:] = 0  # the patch of row 1, column 2
    gap = (net.tokens(changed) - net.tokens(x)).abs().sum(-1)[0]
    assert net.grid == (2, 3)
    assert gap.nonzero().flatten().tolist() == [1 + 1 * 3 + 2]


def test_patches_that_are_not_kept_are_not_seen():
    net, x = encoder(), images()
    keep = torch.tensor([[0, 2, 5]]).expand(3, -1)
    changed = x.clone()
    changed[:, :, :4, 4:8] = 1 - changed[:, :, :4, 4:8]  # patch 1
    torch.testing.assert_close(net(x, keep=keep).patches, net(changed, keep=keep).patches)
    everything = net(x, keep=torch.arange(6).expand(3, -1)).patches
    torch.testing.assert_close(everything, net(x).patches)


def test_standardising_is_part_of_the_network():
    plain, scaled = encoder(), encoder(mean=(0.3,), std=(0.2,))
    scaled.load_state_dict(plain.state_dict() | {k: v for k, v in scaled.state_dict().items() if "standardize" in k})
    torch.testing.assert_close(scaled.features(images()), plain.features((images() - 0.3) / 0.2), atol=1e-5, rtol=1e-5)


def test_features_are_the_mean_over_patches():
    net, x = encoder(), images()
    torch.testing.assert_close(net.features(x), net(x).patches.mean(1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ViTEncoder(1, 10, 4, 16, 1, 2), "patch must divide the image"),
        (lambda: ViTEncoder(1, 8, 4, 16, 1, 2, dropout=1.0), "dropout must be in"),
        (lambda: encoder()(torch.zeros(2, 1, 8, 8)), r"must have shape \(n, 1, 8, 12\), got \(2, 1, 8, 8\)"),
        (lambda: encoder()(images(), taps=(4,)), "numbered from 1 to 3"),
        (lambda: encoder()(images(), taps=(3,), stop_at=2), "behind the early exit"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
