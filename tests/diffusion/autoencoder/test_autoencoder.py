import pytest
import torch
from torch import nn

from holdfast.core.batching import Batches, BatchPlan
from holdfast.core.random import generator
from holdfast.core.steps import StepInfo
from holdfast.core.training import train
from holdfast.diffusion.autoencoder import (
    BernoulliCode,
    ConvAutoencoder,
    GaussianKL,
    PatchDiscriminator,
    PerceptualDistance,
    ReconstructionLoss,
    adaptive_weight,
    augment_differentiably,
    hinge_generator_loss,
    train_autoencoder,
)


def small(bottleneck=None, **kwargs):
    torch.manual_seed(0)
    bottleneck = BernoulliCode(4, 8) if bottleneck is None else bottleneck
    return ConvAutoencoder(bottleneck, channels=1, widths=(8, 8), blocks=1, **kwargs)


def info(step=0):
    return StepInfo(step, 10, 0, generator(0))


@pytest.mark.parametrize("stem", [1, 2])
@pytest.mark.parametrize("bottleneck", [lambda: BernoulliCode(4, 8), lambda: GaussianKL(4, 8)])
def test_shapes_round_trip(bottleneck, stem):
    net = small(bottleneck(), stem=stem)
    x = torch.rand(3, 1, 8, 16) * 2 - 1
    out = net(x, generator=generator(0))
    assert out.x.shape == x.shape
    code = net.encode(x, generator=generator(0))
    assert code.shape == (3, 4, *net.grid(8, 16)) == (3, 4, 8 // net.factor, 16 // net.factor)
    torch.testing.assert_close(net.decode(code), out.x)


def test_the_default_is_the_published_size():
    with torch.device("meta"):
        net = ConvAutoencoder(BernoulliCode(32, 512))
    assert net.grid(256, 256) == (16, 16)
    assert net.last_layer.shape == (3, 128, 3, 3)
    with pytest.raises(ValueError, match="multiples of 16, got 250 x 256"):
        net.grid(250, 256)


def test_training_reduces_the_error_of_bits_well_below_that_of_the_mean_image():
    rows = torch.arange(16)[:, None] >> torch.arange(4) & 1
    x = (rows.float() * 2 - 1).view(16, 1, 2, 2).repeat_interleave(4, 2).repeat_interleave(4, 3)
    net = small(stem=2)
    train_autoencoder(net, x, loss=ReconstructionLoss(1.0, 1.0), steps=150, batch_size=16, lr=3e-3, device="cpu")
    with torch.no_grad():
        error = float((net.decode(net.encode(x, sample=False)) - x).square().mean())
    assert error < 0.5 * float(x.var(0, unbiased=False).mean())


def test_discriminator_and_autoencoder_get_only_their_own_gradients():
    net, critic = small(), PatchDiscriminator(1, width=4, layers=1)
    x = torch.rand(4, 1, 8, 8) * 2 - 1
    loss = ReconstructionLoss(adversarial=critic, start_step=5)
    out = loss(net, x, info(5))
    out["loss"].backward()
    got = [p.grad.clone() for p in (*net.parameters(), *critic.parameters())]

    net.zero_grad(), critic.zero_grad()
    rec = net(x, generator=generator(0))
    critic.requires_grad_(False)
    l1 = (rec.x - x).abs().mean()
    fool = hinge_generator_loss(critic(rec.x))
    (l1 + adaptive_weight(l1, fool, net.last_layer) * fool).backward()
    critic.requires_grad_(True)
    real, fake = critic(x), critic(rec.x.detach())
    (0.5 * ((1 - real).relu().mean() + (1 + fake).relu().mean())).backward()
    for a, p in zip(got, (*net.parameters(), *critic.parameters())):
        torch.testing.assert_close(a, p.grad, atol=1e-6, rtol=1e-4)


def test_the_adversary_waits_for_its_step():
    net, critic = small(), PatchDiscriminator(1, width=4, layers=1)
    loss = ReconstructionLoss(adversarial=critic, start_step=5)
    x = torch.zeros(2, 1, 8, 8)
    before, after = loss(net, x, info(4)), loss(net, x, info(5))
    assert "fool" not in before
    assert {"fool", "detect", "adaptive_weight"} <= after.keys()
    torch.testing.assert_close(before["loss"], before["l1"])


def test_one_loop_trains_both_and_a_step_is_that_of_two_optimizers():
    x = torch.rand(8, 1, 8, 8) * 2 - 1
    net, critic = small(), PatchDiscriminator(1, width=4, layers=1)
    twin, rival = small(), PatchDiscriminator(1, width=4, layers=1)
    rival.load_state_dict(critic.state_dict())
    twin.load_state_dict(net.state_dict())
    loss = ReconstructionLoss(adversarial=critic, start_step=0)
    settings = {"steps": 1, "optimizer": "adam", "lr": 1e-3, "device": "cpu", "seed": 0}
    seen = []

    def watch(module, batch, step):
        seen.append((batch, step.generator.get_state()))
        return loss(module, batch, step)

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.loss = loss

        forward = staticmethod(watch)

    train(net, Watched(), Batches(BatchPlan(8, 8, seed=0), lambda rows: x[rows]), **settings)
    two = [torch.optim.Adam(m.parameters(), lr=1e-3) for m in (twin, rival)]
    batch, state = seen[0]
    rng = torch.Generator()
    rng.set_state(state)
    twin_loss = ReconstructionLoss(adversarial=rival, start_step=0)
    twin_loss(twin, batch, StepInfo(0, 1, 0, rng))["loss"].backward()
    for opt in two:
        opt.step()
    for a, b in zip((*net.parameters(), *critic.parameters()), (*twin.parameters(), *rival.parameters())):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_adaptive_weight_balances_and_is_bounded():
    w = torch.tensor([1.0, 2.0], requires_grad=True)
    torch.testing.assert_close(adaptive_weight(3 * w.sum(), 6 * w.sum(), w, delta=0.0), torch.tensor(0.5))
    torch.testing.assert_close(adaptive_weight(3 * w.sum(), 1e-3 * w.sum(), w), torch.tensor(1.0))
    torch.testing.assert_close(adaptive_weight(3 * w.sum(), w.sum(), w, delta=0.0, high=10.0), torch.tensor(3.0))


class _Maps(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)

    def forward(self, x):
        return [x, self.conv(x)]


def test_perceptual_distance_is_zero_on_the_diagonal_symmetric_and_blind_to_the_length_of_features():
    torch.manual_seed(0)
    d = PerceptualDistance(_Maps())
    a, b = torch.randn(2, 2, 1, 6, 6).unbind()
    torch.testing.assert_close(d(a, a), torch.zeros(2))
    torch.testing.assert_close(d(a, b), d(b, a))
    assert not any(p.requires_grad for p in d.parameters())
    only_first = PerceptualDistance(_Maps(), weights=[torch.ones(1), torch.zeros(3)])
    torch.testing.assert_close(only_first(a, 3 * a), torch.zeros(2))
    with pytest.raises(ValueError, match="gives 2 maps, but there are weights for 1"):
        PerceptualDistance(_Maps(), weights=[torch.ones(1)])(a, b)


def test_perceptual_term_reaches_the_autoencoder():
    net = small()
    out = ReconstructionLoss(l1=0.0, perceptual=PerceptualDistance(_Maps()))(net, torch.zeros(2, 1, 8, 8), info())
    out["loss"].backward()
    assert float(net.last_layer.grad.abs().sum()) > 0


def test_augmentation_is_differentiable_and_without_its_parts_keeps_the_place_of_things():
    x = torch.rand(4, 3, 8, 8, requires_grad=True)
    augment_differentiably(x, generator(0)).sum().backward()
    assert float(x.grad.abs().sum()) > 0
    still = augment_differentiably(torch.zeros(4, 1, 8, 8), generator(0), shift=0.0, cutout=0.0)
    torch.testing.assert_close(still, still[:, :, :1, :1].expand_as(still))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: ConvAutoencoder(nn.Identity()), TypeError, "must be a Bottleneck, got Identity"),
        (lambda: small(attention_levels=3), ValueError, r"attention_levels must be in \[0, 2\]"),
        (lambda: ConvAutoencoder(BernoulliCode(4, 8), widths=()), ValueError, "at least one level"),
        (lambda: small()(torch.zeros(1, 3, 8, 8)), ValueError, r"\(batch, 1, height, width\), got \(1, 3, 8, 8\)"),
        (lambda: small()(torch.zeros(1, 1, 7, 8)), ValueError, "multiples of 2, got 7 x 8"),
        (lambda: ReconstructionLoss(l1=0.0), ValueError, "nothing to minimise"),
        (lambda: ReconstructionLoss(start_step=-1), ValueError, "start_step must be in"),
        (lambda: train_autoencoder(small(), torch.full((2, 1, 8, 8), 2.0), steps=1), ValueError, r"lie in \[-1, 1\]"),
        (
            lambda: train_autoencoder(small(), torch.full((2, 1, 8, 8), float("nan")), steps=1),
            ValueError,
            "must be finite",
        ),
    ],
)
def test_bad_input_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()
