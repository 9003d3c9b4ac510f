"""A code that repairs a frozen denoiser, band by band."""

import pytest
import torch

from holdfast.diffusion.backbones.unet import UNet
from holdfast.diffusion.ddpm import DDPMSchedule
from holdfast.diffusion.denoiser import Denoiser, Output
from holdfast.diffusion.oracles.empirical import EmpiricalDenoiser
from holdfast.diffusion.oracles.gaussian import GaussianOracle
from holdfast.diffusion.time_steps.code_encoder import ConvCodeEncoder, MLPCodeEncoder
from holdfast.diffusion.time_steps.diti import PDAE, DiTi, slerp
from holdfast.diffusion.time_steps.gate import TimeGate
from holdfast.diffusion.time_steps.guided import GuidedDenoiser
from holdfast.diffusion.time_steps.shift_mlp import ShiftMLP
from holdfast.diffusion.time_steps.shift_unet import ShiftUNet
from holdfast.diffusion.time_steps.training import train_diti

SHAPE = (1, 4, 4)
SCHEDULE = DDPMSchedule(1000)


def images(n=16, seed=0):
    return torch.rand((n, *SHAPE), generator=torch.Generator().manual_seed(seed)) * 2 - 1


def frozen():
    return EmpiricalDenoiser(images(), SCHEDULE).eval()


def parts(dim=6, seed=0, woken=False):
    torch.manual_seed(seed)
    encoder, shift = MLPCodeEncoder(SHAPE, dim, (16,), last_std=None), ShiftMLP(SHAPE, dim, 16)
    if woken:
        torch.nn.init.normal_(shift.net[-1].weight, std=0.3)
    return encoder, shift


def model(mode="stop_grad", woken=False, **options):
    encoder, shift = parts(woken=woken)
    return DiTi(encoder, frozen(), shift, TimeGate(6, 3), mode, **options)


class Predicts(torch.nn.Module):
    """A network that gives one exact denoiser's answer as noise, data or velocity."""

    def __init__(self, kind):
        super().__init__()
        self.oracle, self.kind = frozen(), kind

    def forward(self, x, t, y=None, taps=()):
        return Output(self.oracle.predict(x, t, target=self.kind), {})


def noise(seed=1, n=16):
    return torch.randn((n, *SHAPE), generator=torch.Generator().manual_seed(seed))


def test_at_the_start_the_loss_is_the_frozen_models():
    m, x, eps = model(), images(), noise()
    t = torch.arange(16).float() * 60
    error = eps - m.frozen.predict(m.path.noise(x, eps, t), t, target="noise")
    snr = m.path.snr(t)
    expected = (snr**0.1 / (1 + snr) * error.square().flatten(1).sum(1)).mean()
    torch.testing.assert_close(m.loss_at(x, t, eps), expected)


@pytest.mark.parametrize("mode", ["base", "stop_grad"])
def test_one_band_is_the_ungated_autoencoder_bit_for_bit(mode):
    x, eps, t = images(), noise(), torch.arange(16).float() * 60
    encoder, shift = parts(woken=True)
    gated = DiTi(encoder, frozen(), shift, TimeGate(6, 1), mode)
    plain = PDAE(encoder, frozen(), shift, 6)
    schedule, snr = gated.path, gated.path.snr(t)
    x_t = schedule.noise(x, eps, t)
    g = shift(x_t, t, encoder(x))
    corrected = gated.frozen.predict(x_t, t, target="noise") + schedule.shift_coefficient(t).view(-1, 1, 1, 1) * g
    ungated = (snr**0.1 / (1 + snr) * (eps - corrected).square().flatten(1).sum(1)).mean()
    losses = [ungated, gated.loss_at(x, t, eps), plain.loss_at(x, t, eps)]
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(losses[0], losses[2])
    weights = [*encoder.parameters(), *shift.parameters()]
    for one, other in zip(*(torch.autograd.grad(loss, weights) for loss in losses[:2])):
        assert torch.equal(one, other)


@pytest.mark.parametrize("t", [10, 400, 990])
def test_a_loss_reaches_only_the_newest_band_if_gradients_are_stopped(t):
    m, x, eps = model(woken=True), images(), noise()
    m.encoder.net[-1].bias.grad = None
    m.loss_at(x, torch.full((16,), float(t)), eps).backward()
    grad = m.encoder.net[-1].bias.grad
    assert torch.equal(grad != 0, m.gate.current(torch.tensor([t]))[0])
    base = model("base", woken=True)
    times = torch.full((16,), float(t))
    assert torch.equal(base.loss_at(x, times, eps), m.loss_at(x, times, eps))


def test_dual_is_the_sum_of_both():
    x, eps, t = images(), noise(), torch.full((16,), 500.0)
    both = model("dual", woken=True).loss_at(x, t, eps)
    one = model("base", woken=True).loss_at(x, t, eps)
    torch.testing.assert_close(both, 2 * one)


def test_the_correction_is_the_shift_of_the_posterior_mean():
    s = SCHEDULE.shift_coefficient(torch.arange(1000, dtype=torch.float64))
    beta, alpha, abar, before = SCHEDULE.betas, SCHEDULE.alphas, SCHEDULE.alpha_bar, SCHEDULE.alpha_bar_previous
    of_mean = -beta / (alpha.sqrt() * (1 - abar).sqrt()) * s
    variance = beta * (1 - before) / (1 - abar)
    torch.testing.assert_close(of_mean, variance, atol=1e-10, rtol=0)
    assert float(s[0]) == 0
    guided = -(1 - abar).sqrt()
    torch.testing.assert_close(s / guided, alpha.sqrt() * (1 - before) / (1 - abar), atol=1e-10, rtol=0)


def test_a_first_step_at_time_zero_teaches_nothing():
    m = model(woken=True)
    m.loss_at(images(), torch.zeros(16), noise()).backward()
    assert all(p.grad is None or not bool(p.grad.any()) for p in m.parameters())


def test_training_changes_encoder_and_shift_and_never_the_frozen_model():
    torch.manual_seed(0)
    net = UNet(1, size=4, base=8, mult=(1, 2), blocks_per_level=1)
    m = DiTi(
        MLPCodeEncoder(SHAPE, 6, (8,)),
        Denoiser(net, SCHEDULE, "noise").eval(),
        ShiftUNet(net, 6),
        TimeGate(6, 3),
    )
    before = {k: v.clone() for k, v in m.state_dict().items()}
    train_diti(m, images(), steps=3, batch_size=8, ema=None, device="cpu")
    assert not m.frozen.training
    changed = {k.split(".")[0] for k, v in m.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"encoder", "shift"}


def test_training_tells_two_points_where_noise_has_hidden_the_difference_and_is_deterministic():
    x = torch.tensor([-0.8, 0.8]).view(2, 1, 1, 1).expand(2, *SHAPE).repeat(16, 1, 1, 1)
    runs = []
    for _ in range(2):
        encoder, shift = parts()
        m = DiTi(encoder, EmpiricalDenoiser(x[:2], SCHEDULE).eval(), shift, TimeGate(6, 3))
        train_diti(m, x, steps=300, batch_size=32, lr=3e-3, ema=0.9, device="cpu", seed=1)
        runs.append(m.noise_errors(x, draws=20, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(*runs)
    assert float(runs[0][2, 1]) < 0.5 * float(runs[0][2, 0])


def test_decoding_what_was_inverted_errs_as_one_over_steps():
    oracle = GaussianOracle(torch.zeros(SHAPE), 0.25, SCHEDULE).eval()
    encoder, shift = parts()
    m = DiTi(encoder, oracle, shift, TimeGate(6, 3), value_range=None)
    x = images(8) * 0.5
    z = m.encode(x)
    errors = [float((m.decode(z, m.invert(x, n), n) - x).square().mean().sqrt()) for n in (25, 50, 100)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[0] / errors[2] > 3  # four times the steps, about a quarter of the error


def test_guidance_follows_the_gate_and_every_target():
    m, x, z = model(woken=True), images(4), torch.randn(4, 6, generator=torch.Generator().manual_seed(2))
    other = z.clone()
    other[:, m.gate.subset(2)] += 1
    early, late = (torch.full((4,), float(t)) for t in (100, 900))
    for t, same in ((early, True), (late, False)):
        a, b = (GuidedDenoiser(m.frozen, m.shift, m.gate, c).predict(x, t, target="noise") for c in (z, other))
        assert torch.equal(a, b) is same
    guided = m.guided(z)
    eps, data = (guided.predict(x, late, target=k) for k in ("noise", "data"))
    alpha, sigma, *_ = (c.view(-1, 1, 1, 1) for c in m.path.coefficients(late))
    torch.testing.assert_close(alpha * data + sigma * eps, x, atol=1e-4, rtol=1e-4)


def test_codes_are_swapped_and_interpolated_in_the_named_bands_alone():
    m = model()
    a, b = torch.zeros(2, 6), torch.ones(2, 6)
    assert m.swap(a, b, [1])[0].tolist() == [0, 0, 1, 1, 0, 0]
    assert m.interpolate(a, b, 0.25, [0, 2])[0].tolist() == [0.25, 0.25, 0, 0, 0.25, 0.25]
    assert torch.equal(m.interpolate(a, b, 1.0), b)
    with pytest.raises(ValueError, match="one shape"):
        m.swap(a, b[:, :5], [0])
    with pytest.raises(ValueError, match="band"):
        m.swap(a, b, [3])


def test_counterfactual_without_change_is_the_reconstruction():
    m = model(woken=True)
    a, b = images(3, 1), images(3, 2)
    z = m.encode(a)
    torch.testing.assert_close(m.counterfactual(a, b, [], steps=5), m.decode(z, m.invert(a, 5), 5))
    whole = m.counterfactual(a, b, range(3), noise_weight=1.0, steps=5)
    torch.testing.assert_close(whole, m.decode(m.encode(b), m.invert(b, 5), 5), atol=1e-3, rtol=1e-3)


def test_great_circle_keeps_the_norm():
    a, b = noise(1).double(), noise(2).double()
    a, b = a / a.flatten(1).norm(dim=1).view(-1, 1, 1, 1), b / b.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    torch.testing.assert_close(slerp(a, b, 0.3).flatten(1).norm(dim=1), torch.ones(16, dtype=torch.float64))
    torch.testing.assert_close(slerp(a, a, 0.3), a)


def test_encoders_are_small_at_the_start_and_check_their_shapes():
    z = MLPCodeEncoder(SHAPE, 6)(images())
    assert float(z.detach().abs().max()) < 0.02
    assert ConvCodeEncoder(1, 16, 5, (8, 8), attention=4)(torch.zeros(2, 1, 16, 16)).shape == (2, 5)
    with pytest.raises(ValueError, match="multiple of 16"):
        ConvCodeEncoder(1, 20, 5)
    with pytest.raises(ValueError, match="among the stages"):
        ConvCodeEncoder(1, 16, 5, (8, 8), attention=16)


def test_what_a_frozen_model_predicts_makes_no_difference_once_it_is_declared():
    x, eps, t = images(), noise(), torch.full((16,), 400.0)
    losses = []
    for kind in ("noise", "data", "velocity"):
        encoder, shift = parts(woken=True)
        declared = Denoiser(Predicts(kind), SCHEDULE, kind).eval()
        losses.append(DiTi(encoder, declared, shift, TimeGate(6, 3)).loss_at(x, t, eps))
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(losses[2], losses[0])


def test_several_codes_may_share_one_pass_of_the_frozen_model():
    m, x, eps, t = model(woken=True), images(), noise(), torch.full((16,), 400.0)
    shared = m.frozen.predict(m.path.noise(x, eps, t), t, target="noise")
    assert torch.equal(m.loss_at(x, t, eps, frozen_eps=shared), m.loss_at(x, t, eps))
    assert not torch.equal(m.loss_at(x, t, eps, frozen_eps=shared + 1), m.loss_at(x, t, eps))


def test_what_cannot_be_frozen_or_fitted_is_refused():
    encoder, shift = parts()
    gate = TimeGate(6, 3)
    with pytest.raises(TypeError, match="must declare its path"):
        DiTi(encoder, torch.nn.Linear(2, 2), shift, gate)
    with pytest.raises(ValueError, match=r"training mode .* call .eval"):
        DiTi(encoder, frozen().train(), shift, gate)
    with pytest.raises(ValueError, match="gate counts 100 steps"):
        DiTi(encoder, frozen(), shift, TimeGate(6, 3, steps=100))
    with pytest.raises(ValueError, match="the encoder returns 6"):
        DiTi(encoder, frozen(), ShiftMLP(SHAPE, 8, 16), TimeGate(8, 3))
    with pytest.raises(ValueError, match="the shift reads 6"):
        DiTi(encoder, frozen(), shift, TimeGate(8, 3))
    m = model()
    with pytest.raises(ValueError, match=r"values in \[-1, 1\], but the samples reach from 0 to 255"):
        m.loss(images() * 0 + torch.tensor([0.0, 255.0] * 8).view(-1, 1, 1, 1))
    with pytest.raises(TypeError, match="floating tensor"):
        m.encode(torch.zeros(2, 1, 4, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match="one code for each of the 2 samples"):
        m.guided(torch.zeros(3, 6)).predict(images(2), 5.0)
    with pytest.raises(ValueError, match="takes no labels y"):
        m.guided(torch.zeros(2, 6)).predict(images(2), 5.0, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="mode must be one of"):
        model("late")
    with pytest.raises(ValueError, match=r"value_range must be \(low, high\)"):
        model(value_range=(1.0, -1.0))
