import math

import pytest
import torch

from holdfast.core.random import generator
from holdfast.diffusion.autoencoder import (
    BernoulliCode,
    GaussianKL,
    bit_entropy,
    bits_to_tokens,
    tokens_to_bits,
)


def test_forward_values_are_bits_and_the_gradient_is_that_of_the_sigmoid():
    torch.manual_seed(0)
    code = BernoulliCode(channels=5, width=8)
    h = torch.randn(3, 8, 2, 2, requires_grad=True)
    out = code(h, generator=generator(1))
    assert set(out.code.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(out.embedding, code.embed(out.code), rtol=0, atol=0)
    r = torch.randn_like(out.embedding)
    (got,) = torch.autograd.grad((out.embedding * r).sum(), h)
    smooth = code.embedding(code.to_logits(h).sigmoid())
    (want,) = torch.autograd.grad((smooth * r).sum(), h)
    torch.testing.assert_close(got, want)


def test_without_straight_through_no_gradient_reaches_the_encoder():
    code = BernoulliCode(4, 8, straight_through="none")
    h = torch.randn(2, 8, 2, 2, requires_grad=True)
    code(h, generator=generator(0)).embedding.sum().backward()
    assert h.grad is None
    assert code.embedding.weight.grad is not None


def test_draws_follow_the_probabilities_and_thresholds_are_their_mode():
    torch.manual_seed(0)
    code = BernoulliCode(4, 8)
    h = torch.randn(1, 8, 2, 2)
    y = code.probabilities(h)
    n = 4000
    bits = code.encode(h.expand(n, -1, -1, -1), generator=generator(0))
    assert bool(((bits.mean(0) - y[0]).abs() < 4 * (y[0] * (1 - y[0]) / n).sqrt() + 1e-12).all())
    torch.testing.assert_close(code.encode(h, sample=False), (y > 0.5).float())
    fixed = BernoulliCode(4, 8, deterministic=True)
    torch.testing.assert_close(fixed(h).code, (fixed.probabilities(h) > 0.5).float())


def test_the_same_generator_gives_the_same_bits_and_the_global_state_is_left_alone():
    code, h = BernoulliCode(4, 8), torch.randn(2, 8, 2, 2)
    before = torch.get_rng_state()
    a, b = (code(h, generator=generator(3)).code for _ in range(2))
    assert torch.equal(a, b)
    assert torch.equal(torch.get_rng_state(), before)


def test_tokens_and_bits_are_each_others_inverse():
    tokens = torch.arange(2**6).view(2, 4, 8)
    bits = tokens_to_bits(tokens, 6)
    assert torch.equal(bits_to_tokens(bits), tokens)
    assert bits_to_tokens(bits.bool()).unique().numel() == 64
    assert BernoulliCode(6, 8).bits_per_cell == math.log2(64)


def test_entropy_of_bits():
    bits = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 1.0], [0.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    torch.testing.assert_close(bit_entropy(bits), torch.tensor([0.0, 1.0, 0.0]))


def test_code_weight_is_the_variance_of_the_bits():
    torch.manual_seed(0)
    code, h = BernoulliCode(4, 8, code_weight=2.0), torch.randn(2, 8, 2, 2)
    y = code.probabilities(h)
    torch.testing.assert_close(code(h, generator=generator(0)).loss, 2 * (y * (1 - y)).mean())


def test_kl_is_that_of_the_distribution():
    torch.manual_seed(0)
    code, h = GaussianKL(3, 8, kl_weight=1.0), torch.randn(2, 8, 2, 2)
    mean, log_variance = code.moments(h)
    q = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    p = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    want = torch.distributions.kl_divergence(q, p).sum(1).mean()
    torch.testing.assert_close(code(h, generator=generator(0)).loss, want)
    torch.testing.assert_close(code.encode(h, sample=False), mean)
    n = 4000
    draws = code.encode(h[:1].expand(n, -1, -1, -1), generator=generator(0))
    z = (draws.mean(0) - mean[0]) / ((0.5 * log_variance[0]).exp() / n**0.5)
    assert float(z.detach().abs().max()) < 4.5


def test_embedding_of_a_code_is_what_the_forward_pass_decodes():
    torch.manual_seed(0)
    for code in (BernoulliCode(4, 8, normalize=True), GaussianKL(3, 8)):
        out = code(torch.randn(2, 8, 2, 2), generator=generator(0))
        torch.testing.assert_close(code.embed(out.code), out.embedding)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: BernoulliCode(0, 8), "channels must be in"),
        (lambda: GaussianKL(0, 8), "channels must be in"),
        (lambda: BernoulliCode(4, 0), "width must be in"),
        (lambda: BernoulliCode(4, 8, straight_through="yes"), "straight_through must be one of"),
        (lambda: BernoulliCode(4, 8)(torch.zeros(2, 7, 2, 2)), r"\(batch, 8, h, w\), got \(2, 7, 2, 2\)"),
        (lambda: BernoulliCode(4, 8).embed(torch.full((1, 4, 2, 2), 0.5)), "must hold bits, 0 or 1, but holds 0.5"),
        (lambda: BernoulliCode(4, 8).embed(torch.zeros(1, 3, 2, 2)), r"\(batch, 4, h, w\)"),
        (lambda: bits_to_tokens(torch.full((1, 2), 2)), "holds 2"),
        (lambda: bits_to_tokens(torch.zeros(1, 63)), "at most 62 bits"),
        (lambda: tokens_to_bits(torch.tensor([4]), 2), r"lie in \[0, 4\)"),
        (lambda: GaussianKL(2, 8, kl_weight=-1), "kl_weight must be in"),
        (lambda: GaussianKL(2, 8).embed(torch.zeros(1, 3, 2, 2)), r"latents must have shape \(batch, 2"),
    ],
)
def test_bad_input_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
