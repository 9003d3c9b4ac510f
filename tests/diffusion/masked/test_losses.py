import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from holdfast.diffusion.masked.losses import exact_masked_nelbo, masked_cross_entropy, masked_nelbo
from holdfast.diffusion.masked.schedules import CosineMask, GeometricMask, LinearMask, MaskSchedule
from holdfast.diffusion.oracles.markov_chain import ExactChainDenoiser, MarkovChain

L, V, MASK = 6, 3, 3


class _Net(nn.Module):
    """A random perceptron over the whole sequence, float64; with time, softmax(w(x) + t c)."""

    def __init__(self, time_input=False, seed=100):
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.time_input = time_input
        self.w1 = torch.randn(L * (V + 1), 16, generator=g, dtype=torch.float64)
        self.w2 = torch.randn(16, L * V, generator=g, dtype=torch.float64)
        self.c = torch.randn(L, V, generator=g, dtype=torch.float64)

    def forward(self, tokens, t=None):
        h = torch.tanh(nn.functional.one_hot(tokens, V + 1).double().flatten(1) @ self.w1)
        logits = (h @ self.w2).view(-1, L, V)
        return logits if t is None or not self.time_input else logits + t.double()[:, None, None] * self.c


def _gen(seed=100):
    return torch.Generator().manual_seed(seed)


def _x0(batch=4):
    return torch.randint(0, V, (batch, L), generator=_gen(1))


def _by_quadrature(model, x0, schedule, nodes=400):
    """The continuous bound: Gauss-Legendre in the time, all masks of every time."""
    z, w = np.polynomial.legendre.leggauss(nodes)
    masks = torch.tensor(list(itertools.product([False, True], repeat=L)))[1:]
    n = masks.sum(1)
    total = torch.zeros(len(x0), dtype=torch.float64)
    clean = x0.repeat_interleave(len(masks), 0)
    hidden = masks.repeat(len(x0), 1)
    kept = None
    for t, weight in zip((z + 1) / 2, w / 2):
        t = torch.tensor(t, dtype=torch.float64)
        a = schedule.alpha(t)
        if kept is None or model.time_input:
            logits = model(clean.masked_fill(hidden, MASK), t.expand(len(clean)))
            kept = masked_cross_entropy(logits, clean, hidden).view(len(x0), -1)
        share = a ** (L - n) * (1 - a) ** n
        total += weight * -schedule.dalpha(t) / (1 - a) * (kept @ share)
    return total


@pytest.mark.parametrize("schedule", [LinearMask(), CosineMask()], ids=repr)
def test_the_sum_over_numbers_is_the_integral_over_time_for_every_schedule(schedule):
    model, x0 = _Net(), _x0()
    torch.testing.assert_close(
        exact_masked_nelbo(model, x0, MASK), _by_quadrature(model, x0, schedule), rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("schedule", [LinearMask(), CosineMask(), GeometricMask(0.1, 10.0)], ids=repr)
def test_a_model_that_reads_time_is_averaged_over_the_beta_law(schedule):
    model, x0 = _Net(time_input=True), _x0()
    found = exact_masked_nelbo(model, x0, MASK, schedule=schedule, nodes=64)
    torch.testing.assert_close(found, _by_quadrature(model, x0, schedule), rtol=1e-4, atol=0)


@pytest.mark.parametrize("time_input", [False, True])
@pytest.mark.parametrize("mode", ["count", "continuous"])
@pytest.mark.parametrize("antithetic", [False, True])
def test_draws_are_unbiased(mode, time_input, antithetic):
    model, x0, schedule = _Net(time_input), _x0(1), CosineMask()
    draws = masked_nelbo(
        model, x0.expand(20_000, L), MASK, mode, schedule=schedule, antithetic=antithetic, generator=_gen()
    )
    exact = float(exact_masked_nelbo(model, x0, MASK, schedule=schedule))
    error = float(draws.std()) / math.sqrt(len(draws))
    assert abs(float(draws.mean()) - exact) < 4 * error


def test_sharing_out_the_numbers_lowers_the_variance():
    model, x0 = ExactChainDenoiser(MarkovChain.sticky(V, 0.99)), torch.zeros(24, L).long()
    g = _gen()

    def spread(antithetic):
        draws = [masked_nelbo(model, x0, MASK, antithetic=antithetic, generator=g).mean() for _ in range(200)]
        return float(torch.stack(draws).std())

    assert spread(True) < 0.8 * spread(False)


def test_the_oracle_reaches_the_entropy_of_the_data():
    chain = MarkovChain.sticky(V, 0.7)
    x = torch.tensor(list(itertools.product(range(V), repeat=L)))
    bound = exact_masked_nelbo(ExactChainDenoiser(chain), x, MASK)
    # Any order of revealing by exact conditionals gives the exact log-probability.
    torch.testing.assert_close(bound, -chain.log_prob(x), rtol=1e-9, atol=1e-9)


def test_cross_entropy_of_soft_and_smoothed_targets():
    logits, target = torch.randn(2, 5, V), torch.randint(0, V, (2, 5))
    hidden = torch.rand(2, 5) < 0.7
    hard = masked_cross_entropy(logits, target, hidden)
    one_hot = nn.functional.one_hot(target, V).float()
    torch.testing.assert_close(masked_cross_entropy(logits, one_hot, hidden), hard)
    smooth = 0.9 * one_hot + 0.1 / V
    torch.testing.assert_close(
        masked_cross_entropy(logits, target, hidden, 0.1), masked_cross_entropy(logits, smooth, hidden)
    )
    by_hand = -(logits.log_softmax(-1).gather(2, target[..., None])[..., 0] * hidden).sum(1)
    torch.testing.assert_close(hard, by_hand)


def test_visible_positions_get_no_gradient():
    logits = torch.randn(2, 5, V, requires_grad=True)
    hidden = torch.tensor([[True, False, False, True, False]] * 2)
    masked_cross_entropy(logits, torch.zeros(2, 5).long(), hidden).sum().backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad.abs().sum(-1) > 0, hidden)


class _Rising(MaskSchedule):
    def alpha(self, t):
        return t

    def dalpha(self, t):
        return torch.ones_like(t)

    def alpha_inv(self, a):
        return a


def test_bad_input_is_refused():
    model, x0 = _Net(), _x0()
    with pytest.raises(ValueError, match=r"mask_id must lie outside the vocabulary \[0, 3\)"):
        masked_nelbo(model, torch.zeros(4, L).long(), 2)
    with pytest.raises(ValueError, match=r"x0 must hold tokens in \[0, mask_id = 3\), got 0 to 3"):
        masked_nelbo(model, torch.full((1, L), 3).index_fill_(1, torch.tensor([0]), 0), 3)
    with pytest.raises(ValueError, match=r"x0 must hold tokens in \[0, 3\), which the model predicts, got 5"):
        masked_nelbo(lambda tokens, t=None: torch.zeros(*tokens.shape, V), torch.full((1, L), 5), 9)
    with pytest.raises(ValueError, match="mode must be one of"):
        masked_nelbo(model, x0, MASK, "both")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="alpha\\(0\\) = 1"):
        masked_nelbo(model, x0, MASK, schedule=_Rising())
    with pytest.raises(ValueError, match="at most 12 tokens, got sequences of 13"):
        exact_masked_nelbo(model, torch.zeros(1, 13).long(), MASK)
    with pytest.raises(ValueError, match="do not fit"):
        masked_cross_entropy(torch.zeros(1, 2, 3), torch.zeros(1, 3).long(), torch.ones(1, 3).bool())
