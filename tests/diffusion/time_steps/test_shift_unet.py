"""The correction of a frozen U-Net that reads its way down."""

import pytest
import torch

from holdfast.diffusion.backbones.unet import UNet
from holdfast.diffusion.backbones.unet_blocks import wake_zero_layers
from holdfast.diffusion.ddpm import DDPMSchedule
from holdfast.diffusion.denoiser import Denoiser
from holdfast.diffusion.time_steps.code_encoder import MLPCodeEncoder
from holdfast.diffusion.time_steps.diti import DiTi
from holdfast.diffusion.time_steps.gate import TimeGate
from holdfast.diffusion.time_steps.shift_mlp import ShiftMLP
from holdfast.diffusion.time_steps.shift_unet import ShiftUNet

SHAPE = (1, 8, 8)
SCHEDULE = DDPMSchedule(1000)
T = torch.tensor([3.0, 400.0, 900.0])


def network():
    torch.manual_seed(0)
    net = UNet(1, size=8, base=8, mult=(1, 2), blocks_per_level=1).eval()
    wake_zero_layers(net, torch.Generator().manual_seed(0))  # as after training: at first no block adds anything
    return net


def images(seed=0):
    return torch.rand((3, *SHAPE), generator=torch.Generator().manual_seed(seed)) * 2 - 1


def woken(net):
    shift = ShiftUNet(net, 6)
    torch.nn.init.normal_(shift.out[-1].weight, std=0.1)
    return shift.eval()


def maps(net, shift, x):
    return net(x, T, taps=shift.taps).taps


def test_at_the_start_the_loss_is_the_frozen_models():
    net, x, eps = network(), images(), torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1))
    frozen = Denoiser(net, SCHEDULE, "noise").eval()
    m = DiTi(MLPCodeEncoder(SHAPE, 6, (8,)), frozen, ShiftUNet(net, 6), TimeGate(6, 3))
    snr = SCHEDULE.snr(T)
    error = eps - frozen.predict(SCHEDULE.noise(x, eps, T), T, target="noise")
    expected = (snr**0.1 / (1 + snr) * error.square().flatten(1).sum(1)).mean()
    torch.testing.assert_close(m.loss_at(x, T, eps), expected)


def test_an_empty_code_decodes_as_the_frozen_way_up_does():
    net, x = network(), images()
    shift = ShiftUNet(net, 6).eval()
    shift.out[-1].load_state_dict({k: v[:1] for k, v in net.out[-1].state_dict().items()})
    torch.testing.assert_close(shift(x, T, torch.zeros(3, 6), maps(net, shift, x)), net(x, T).pred[:, :1])


def test_the_shift_depends_on_code_time_and_the_frozen_maps():
    net, x = network(), images()
    shift, u = woken(net), torch.randn(3, 6, generator=torch.Generator().manual_seed(2))
    g = shift(x, T, u, maps(net, shift, x))
    assert not torch.allclose(g, shift(x, T, -u, maps(net, shift, x)))
    assert not torch.allclose(g, shift(x, T.flip(0), u, maps(net, shift, x)))
    assert not torch.allclose(g, shift(x, T, u, maps(net, shift, images(5))))


def test_the_frozen_network_is_copied_and_gets_no_gradient():
    net, x = network(), images()
    shift = woken(net)
    own = {p.data_ptr() for p in net.parameters()}
    assert not own & {p.data_ptr() for p in shift.parameters()}
    frozen = Denoiser(net, SCHEDULE, "noise").eval()
    m = DiTi(MLPCodeEncoder(SHAPE, 6, (8,)), frozen, shift, TimeGate(6, 3), "base")
    m.loss_at(x, T, torch.ones_like(x)).backward()
    assert all(p.grad is None for p in net.parameters())
    assert any(bool(p.grad.any()) for p in shift.parameters() if p.grad is not None)


def test_bad_input_is_refused():
    with pytest.raises(TypeError, match="backbones UNet, got Linear"):
        ShiftUNet(torch.nn.Linear(2, 2), 6)  # pyright: ignore[reportArgumentType]
    shift = ShiftUNet(network(), 6)
    with pytest.raises(ValueError, match=r"reads the frozen blocks \[.*\], but \[.*\] are missing"):
        shift(images(), T, torch.zeros(3, 6), {})
    with pytest.raises(ValueError, match="time_dim must be even, got 3"):
        ShiftMLP(SHAPE, 6, time_dim=3)
    with pytest.raises(ValueError, match="code_dim"):
        ShiftUNet(network(), 0)
