import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from holdfast.core.random import generator
from holdfast.diffusion.autoencoder import BernoulliCode, ConvAutoencoder, GaussianKL
from holdfast.diffusion.backbones.bit_transformer import BitTransformer
from holdfast.diffusion.binary import (
    BinaryDiffusion,
    BinarySchedule,
    binary_ancestral,
    bit_probabilities,
    data_probability,
    train_binary_diffusion,
)
from holdfast.diffusion.guidance import Guidance
from holdfast.diffusion.oracles.bits import ExactBitDenoiser, bit_states, sampler_law

STEPS = 8


def net(**kwargs):
    torch.manual_seed(0)
    made = BitTransformer(3, (2, 2), width=16, depth=1, heads=2, steps=STEPS, **kwargs)
    with torch.no_grad():
        made.head.weight.normal_(std=0.3)
    return made


def model(network=None, **kwargs):
    return BinaryDiffusion(net() if network is None else network, BinarySchedule(STEPS), **kwargs)


def bits(n=6):
    return (torch.rand(n, 3, 2, 2, generator=generator(0)) < 0.5).float()


class _Signed(nn.Module):
    """Bit logits made of a network's flip logits."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, z, t, y=None):
        return (1 - 2 * z) * self.inner(z, t).pred


def test_both_parametrisations_are_one_up_to_a_sign():
    inner = net()
    flip, direct = model(inner), model(_Signed(inner), predict="direct")
    z, t = bits(), torch.arange(1, 7)
    f = flip.logits(z, t).sigmoid()
    torch.testing.assert_close(flip.probability(z, t), z * (1 - f) + (1 - z) * f, atol=1e-6, rtol=0)
    torch.testing.assert_close(direct.probability(z, t), flip.probability(z, t), atol=1e-6, rtol=0)
    torch.testing.assert_close(direct.flip_logits(z, t), flip.flip_logits(z, t))
    for vlb in (0.0, 0.5):
        a, b = (
            BinaryDiffusion(m, BinarySchedule(STEPS), predict=p, vlb_weight=vlb).loss(z, generator=generator(4))
            for m, p in ((inner, "flip"), (_Signed(inner), "direct"))
        )
        torch.testing.assert_close(a, b)


def test_the_loss_is_the_cross_entropy_of_flips_at_drawn_times():
    diffusion, z0 = model(), bits()
    rng = generator(7)
    t = torch.randint(1, STEPS + 1, (len(z0),), generator=rng)
    z_t = diffusion.schedule.q_sample(z0, t, generator=rng)
    flipped = torch.logical_xor(z_t.bool(), z0.bool()).float()
    each = F.binary_cross_entropy_with_logits(diffusion.logits(z_t, t), flipped, reduction="none").mean((1, 2, 3))
    torch.testing.assert_close(diffusion.loss(z0, generator=generator(7)), each.mean())
    linear = model(diffusion.denoiser, weighting="linear").loss(z0, generator=generator(7))
    torch.testing.assert_close(linear, (each * (1 - (t - 1) / STEPS)).mean())


def test_the_vlb_term_is_the_cross_entropy_of_the_reversed_step():
    diffusion, z0 = model(vlb_weight=0.5), bits()
    out = diffusion.losses(z0, generator=generator(7))
    rng = generator(7)
    t = torch.randint(1, STEPS + 1, (len(z0),), generator=rng)
    z_t = diffusion.schedule.q_sample(z0, t, generator=rng)
    p = diffusion.schedule.posterior(z_t, diffusion.probability(z_t, t), t, t - 1)
    q = diffusion.schedule.posterior(z_t, z0, t, t - 1)
    torch.testing.assert_close(out["vlb"], F.binary_cross_entropy(p, q))
    torch.testing.assert_close(out["loss"], out["bce"] + 0.5 * out["vlb"])
    out["loss"].backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in diffusion.parameters() if p.grad is not None)


def test_an_untrained_network_with_a_zero_head_says_one_half():
    torch.manual_seed(0)
    fresh = model(BitTransformer(3, (2, 2), width=16, depth=1, heads=2, steps=STEPS))
    torch.testing.assert_close(fresh.loss(bits(), generator=generator(0)).detach(), torch.tensor(math.log(2)))


class _Toy(nn.Module):
    """The oracle as a network."""

    def __init__(self, steps):
        super().__init__()
        rows = torch.tensor([[0, 0, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1]])
        self.oracle = ExactBitDenoiser(rows, 0.1, BinarySchedule(steps))

    def forward(self, z, t, y=None):
        return self.oracle.flip_logits(z, t, y)


def expected_bound(steps):
    """The bound and the entropy of the data, exactly: all z_0, all z_t, all t."""
    toy, states = _Toy(steps), bit_states(4)
    diffusion = BinaryDiffusion(toy, toy.oracle.schedule)
    total = torch.zeros(16, dtype=torch.float64)
    for t in range(1, steps + 1):
        p = diffusion.schedule.marginal(states, t)
        weight = (p.log() @ states.T + (1 - p).log() @ (1 - states).T).exp()  # rows z_0, columns z_t
        z0, z_t = states.repeat_interleave(16, 0), states.repeat(16, 1)
        kl = diffusion.step_kl(z0, z_t, torch.full((256,), t))
        assert float(kl.min()) > -1e-12
        total += (weight * kl.view(16, 16)).sum(1)
    return total / (4 * math.log(2)), -toy.oracle.log_prob(states) / (4 * math.log(2)), toy, diffusion


def test_the_bound_lies_above_the_models_own_likelihood_and_tightens_to_the_entropy_with_more_steps():
    gaps = []
    for steps in (2, 8, 32):
        bound, truth, toy, _ = expected_bound(steps)
        own = -sampler_law(toy.oracle, 4).log2() / 4
        assert bool((bound >= own - 1e-9).all())
        gaps.append(float(toy.oracle.log_prob(bit_states(4)).exp() @ (bound - truth)))
    assert gaps[0] > gaps[1] > gaps[2] > 0
    assert gaps[2] < 0.4 * gaps[1]


def test_the_estimated_bound_is_unbiased():
    bound, _, _, diffusion = expected_bound(8)
    states = bit_states(4)
    estimates = torch.stack([diffusion.nelbo(states.repeat(50, 1), generator=generator(s)) for s in range(4)])
    estimates = estimates.view(-1, 16)
    error = (estimates.mean(0) - bound).abs() / (estimates.std(0) / len(estimates) ** 0.5)
    assert float(error.max()) < 4.5


def test_known_bits_never_change():
    seen = []

    class Spy(nn.Module):
        def forward(self, z, t, y=None):
            seen.append(z.clone())
            return torch.zeros_like(z)

    diffusion = model(Spy())
    known, mask = bits(), torch.rand(6, 3, 2, 2, generator=generator(1)) < 0.5
    out = diffusion.sample((6, 3, 2, 2), steps=5, known=(known, mask), generator=generator(2))
    for z in (*seen, out.x):
        assert torch.equal(z[mask], known[mask])
    one = diffusion.sample((6, 3, 2, 2), known=(known[:1], mask[:1]), generator=generator(2))
    assert torch.equal(one.x * mask[:1], (known[:1] * mask[:1]).expand(6, -1, -1, -1))


def test_in_painting_completes_a_template():
    rows = torch.tensor([[0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]])
    oracle = ExactBitDenoiser(rows, 0.01, BinarySchedule(64))
    known = torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0, 0.0]])
    mask = torch.tensor([[True, True, True, False, False, False]])
    out = binary_ancestral(oracle, (400, 6), known=(known, mask), generator=generator(0))
    assert float(out.x[:, 3:].mean()) > 0.9


def test_a_vanishing_temperature_takes_the_more_probable_value():
    diffusion, z = model(), bits()
    t = torch.full((6,), 1)
    p = data_probability(diffusion, z, 1, temperature=1e-12)
    torch.testing.assert_close(p, (diffusion.probability(z, t) > 0.5).double())
    cold = [diffusion.sample((6, 3, 2, 2), steps=1, temperature=1e-12, generator=generator(5)).x for _ in range(1)]
    rng = generator(5)
    start = (torch.rand(6, 3, 2, 2, dtype=torch.float64, generator=rng) < 0.5).float()
    flips = diffusion.flip_logits(start, torch.full((6,), STEPS)) > 0
    assert torch.equal(cold[0].bool(), torch.logical_xor(start.bool(), flips))


def test_guidance_is_linear_in_the_logits_and_costs_two_calls():
    network = net(num_classes=2, class_dropout=0.1)
    diffusion, z, y = model(network), bits(), torch.tensor([0, 1, 0, 1, 0, 1])
    t = torch.full((6,), 3)
    with torch.no_grad():
        cond, none = diffusion.flip_logits(z, t, y), diffusion.flip_logits(z, t, torch.full((6,), 2))
        w = 0.7
        want = ((1 - 2 * z) * ((1 + w) * cond - w * none)).sigmoid()
        got = data_probability(diffusion, z, 3, y, guidance=Guidance(1 + w))
    torch.testing.assert_close(got.float(), want, atol=1e-5, rtol=0)
    out = diffusion.sample((6, 3, 2, 2), y=y, guidance=Guidance(1.7), generator=generator(0))
    assert (out.calls, out.draws) == (2 * STEPS, (STEPS + 1) * 72)
    late = diffusion.sample((6, 3, 2, 2), y=y, guidance=Guidance(1.7, interval=(0.0, 0.5)), generator=generator(0))
    assert late.calls == STEPS + STEPS // 2


def test_samples_count_their_cost_and_follow_the_generator():
    diffusion = model()
    a, b = (diffusion.sample((4, 3, 2, 2), steps=5, last="argmax", generator=generator(1)) for _ in range(2))
    assert torch.equal(a.x, b.x)
    assert (a.calls, a.draws) == (5, 5 * 48)
    assert set(a.x.unique().tolist()) <= {0.0, 1.0}


def test_training_learns_the_frequencies_of_the_bits():
    p = torch.tensor([0.1, 0.5, 0.95]).view(1, 3, 1, 1).expand(256, 3, 2, 2)
    torch.manual_seed(0)
    diffusion = BinaryDiffusion(BitTransformer(3, (2, 2), width=16, depth=1, heads=2, steps=4), BinarySchedule(4))
    settings = {"batch_size": 128, "lr": 1e-2, "ema": 0.95, "seed": 1, "device": "cpu"}
    train_binary_diffusion(diffusion, p, steps=150, **settings)
    out = diffusion.sample((2000, 3, 2, 2), generator=generator(0))
    assert float((out.x.mean((0, 2, 3)) - p[0, :, 0, 0]).abs().max()) < 0.06


def test_labels_are_dropped_in_training_only():
    network = net(num_classes=2, class_dropout=1.0)
    diffusion, z0 = model(network), bits()
    with torch.no_grad():
        network.label.table.weight.normal_()
    y, other = torch.zeros(6, dtype=torch.long), torch.ones(6, dtype=torch.long)

    def loss(labels):
        return float(diffusion.loss(z0, labels, generator=generator(0)).detach())

    assert loss(y) == loss(other)
    diffusion.eval()
    assert loss(y) != loss(other)


def test_codes_come_as_probabilities():
    torch.manual_seed(0)
    auto = ConvAutoencoder(BernoulliCode(3, 8), channels=1, widths=(8, 8), blocks=1)
    x = torch.rand(5, 1, 8, 8) * 2 - 1
    torch.testing.assert_close(
        bit_probabilities(auto, x, batch_size=2), auto.bottleneck.probabilities(auto.features(x)).detach()
    )
    with pytest.raises(TypeError, match="must be a BernoulliCode, got GaussianKL"):
        bit_probabilities(ConvAutoencoder(GaussianKL(3, 8), channels=1, widths=(8, 8)), x)


SHAPE = (6, 3, 2, 2)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: m.loss(bits() * 2 - 1), "z0 must hold bits, 0 or 1, but holds -1"),
        (lambda m: m.loss(bits(), torch.zeros(5, dtype=torch.long)), "lengths differ"),
        (lambda m: m.sample(SHAPE, steps=STEPS + 1), f"a schedule of {STEPS} steps cannot be sampled with"),
        (lambda m: m.sample(SHAPE, temperature=0.0), r"temperature must be in \(0, inf\), got 0"),
        (lambda m: m.sample(SHAPE, temperature=-1.0), "temperature must be in"),
        (lambda m: m.sample(SHAPE, guidance=Guidance(2.0)), "guidance needs the labels"),
        (lambda m: m.sample(SHAPE, y=torch.zeros(6).long(), guidance=Guidance(2.0)), "needs a model with a null class"),
        (lambda m: m.sample(SHAPE, y=torch.zeros(5).long()), "one label per sample"),
        (lambda m: m.sample((3,)), r"shape must be \(n, ...\)"),
        (lambda m: m.sample(SHAPE, last="both"), "last must be one of"),
        (lambda m: m.sample(SHAPE, known=(bits() / 2, torch.ones(SHAPE) > 0)), "known bits must hold bits"),
        (lambda m: m.sample(SHAPE, known=(bits(), torch.ones(SHAPE))), "mask of known bits must be boolean"),
        (lambda m: m.sample(SHAPE, known=(bits(4), torch.ones(SHAPE) > 0)), r"must fit the shape \(6, 3, 2, 2\)"),
        (lambda m: m.sample((6, 3, 4, 4)), r"bits must have shape \(n, 3, 2, 2\), got \(6, 3, 4, 4\)"),
        (lambda m: m.denoiser(bits(), torch.zeros(6, dtype=torch.long)), r"t must lie in 1\.\.8, got 0 to 0"),
        (lambda m: m.nelbo(bits(), draws=0), "draws must be in"),
        (lambda m: model(predict="noise"), "predict must be one of"),
        (lambda m: model(weighting="focal"), "weighting must be one of"),
        (lambda m: model(vlb_weight=-1), "vlb_weight must be in"),
        (lambda m: BinaryDiffusion(net(), BinarySchedule(9)), "the network knows 8 times, but the schedule has 9"),
        (lambda m: train_binary_diffusion(m, bits() * 2, steps=1), r"probabilities in \[0, 1\], got 2"),
        (lambda m: train_binary_diffusion(m, bits(), torch.zeros(2), steps=1), "lengths differ"),
    ],
)
def test_bad_input_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call(model())
