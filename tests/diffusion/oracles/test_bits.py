import pytest
import torch

from holdfast.core.random import generator
from holdfast.diffusion.binary import BinarySchedule, binary_ancestral
from holdfast.diffusion.oracles.bits import ExactBitDenoiser, bit_states, sampler_law, total_variation

TEMPLATES = torch.tensor([[0, 0, 0, 0, 0], [1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [1, 0, 1, 0, 1]])


def toy(steps=16, **kwargs):
    return ExactBitDenoiser(TEMPLATES, 0.1, BinarySchedule(steps), weights=torch.tensor([0.4, 0.3, 0.2, 0.1]), **kwargs)


def test_the_denoiser_is_bayes_rule_over_all_states():
    model, states = toy(), bit_states(5)
    prior = model.log_prob(states).exp()
    torch.testing.assert_close(prior.sum(), torch.tensor(1.0, dtype=torch.float64))
    for t in (1, 7, 16):
        p = model.schedule.marginal(states, t)  # rows: z_0
        forward = (states @ p.log().T + (1 - states) @ (1 - p).log().T).exp()  # rows: z_t, columns: z_0
        joint = forward * prior
        want = joint @ states / joint.sum(1, keepdim=True)
        torch.testing.assert_close(model.probability(states, t), want, atol=1e-10, rtol=0)
        torch.testing.assert_close(model.log_prob(states, t).exp(), joint.sum(1), atol=1e-12, rtol=0)
        flip = model.flip_logits(states, t).sigmoid()
        torch.testing.assert_close(states * (1 - flip) + (1 - states) * flip, want, atol=1e-10, rtol=0)


def test_one_reversed_step_reproduces_every_bits_exact_marginal():
    model, states = toy(), bit_states(5)
    for t, s in ((16, 9), (9, 8), (5, 1), (3, 0)):
        p_t, p_s = model.log_prob(states, t).exp(), model.log_prob(states, s).exp()
        back = model.schedule.posterior(states, model.probability(states, t), t, s)
        torch.testing.assert_close(p_t @ back, p_s @ states, atol=1e-10, rtol=0)
        if s and t < 16:  # at t = T nothing is known of the data yet
            doubled = model.schedule.posterior(states, model.probability(states, t), t, s, "plug_in")
            assert float((p_t @ doubled - p_s @ states).abs().max()) > 1e-3


def test_the_mixture_chain_converges_to_the_data_and_the_plug_in_chain_does_not():
    rows = torch.tensor([[int(c) for c in r] for r in ("00000000", "11110000", "00111100", "10101010")])
    far = {}
    for steps in (16, 64, 256):
        model = ExactBitDenoiser(rows, 0.05, BinarySchedule(steps))
        data = model.log_prob(bit_states(8)).exp()
        far[steps] = [total_variation(sampler_law(model, 8, posterior=k), data) for k in ("mixture", "plug_in")]
    assert far[16][0] > far[64][0] > far[256][0]
    assert far[64][0] <= 0.02
    assert 0.3 < far[16][1] < far[64][1] < far[256][1]


def test_the_samplers_draws_follow_its_enumerated_law():
    model, n = toy(8), 20_000
    for options in ({}, {"posterior": "plug_in"}, {"steps": 3, "temperature": 0.7}, {"last": "argmax", "steps": 4}):
        law = sampler_law(model, 5, **options)
        torch.testing.assert_close(law.sum(), torch.tensor(1.0, dtype=torch.float64), atol=1e-9, rtol=0)
        out = binary_ancestral(model, (n, 5), generator=generator(3), **options)
        counts = torch.bincount((out.x.long() * 2 ** torch.arange(5)).sum(1), minlength=32).double()
        expected = n * law
        some = expected > 5
        chi2 = float(((counts - expected).square() / expected)[some].sum())
        assert chi2 < int(some.sum()) + 5 * (2 * int(some.sum())) ** 0.5


def test_draws_follow_the_mixture():
    model, n = toy(), 20_000
    x = model.draw(n, generator=generator(0)).double()
    p = model.log_prob(bit_states(5)).exp() @ bit_states(5)
    assert bool(((x.mean(0) - p).abs() < 4 * (p * (1 - p) / n).sqrt()).all())


def test_a_class_conditions_on_its_templates():
    model = toy(classes=torch.tensor([0, 0, 1, 1]))
    alone = ExactBitDenoiser(TEMPLATES[2:], 0.1, BinarySchedule(16), weights=torch.tensor([0.2, 0.1]))
    states = bit_states(5)
    y = torch.ones(32, dtype=torch.long)
    torch.testing.assert_close(model.probability(states, 5, y), alone.probability(states, 5))
    torch.testing.assert_close(model.probability(states, 5, y + 1), toy().probability(states, 5))
    assert model.null_class == 2


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ExactBitDenoiser(TEMPLATES * 2, 0.1, BinarySchedule(4)), "templates must hold bits"),
        (lambda: ExactBitDenoiser(TEMPLATES, 0.6, BinarySchedule(4)), r"flip_prob must be in \[0, 0.5\]"),
        (lambda: ExactBitDenoiser(TEMPLATES, 0.1, BinarySchedule(4), weights=torch.zeros(4)), "4 positive numbers"),
        (lambda: toy().probability(torch.zeros(2, 4), 1), r"templates' shape \(5,\), got \(4,\)"),
        (lambda: toy().probability(torch.zeros(2, 5), 17), r"t must lie in 0\.\.16, got 17"),
        (lambda: toy().probability(torch.zeros(1, 5), 1, torch.zeros(1, dtype=torch.long)), "needs the classes"),
        (lambda: sampler_law(toy(), 13), r"n must be in \[1, 12\]"),
    ],
)
def test_bad_input_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
