import itertools
import math

import pytest
import torch
from scipy import stats

from holdfast.diffusion.masked import (
    AncestralMaskedSampler,
    CosineMask,
    FirstHittingSampler,
    GeometricMask,
    LinearMask,
    MaskSchedule,
    TwoStageMaskedSampler,
    expected_nfe,
    hitting_times,
)
from holdfast.diffusion.oracles.markov_chain import ExactChainDenoiser, MarkovChain

V = MASK = 3
CHAIN = MarkovChain.sticky(V, 0.8)
ORACLE = ExactChainDenoiser(CHAIN, length=32)
SAMPLERS = [
    AncestralMaskedSampler(8),
    AncestralMaskedSampler(8, CosineMask(), cache=False),
    TwoStageMaskedSampler(8),
    FirstHittingSampler(),
    FirstHittingSampler(3, CosineMask()),
    FirstHittingSampler(3, order=2),
    FirstHittingSampler(3, order=2, corrector=True),
]


def _gen(seed=100):
    return torch.Generator().manual_seed(seed)


class _Watch:
    """A model that keeps the tokens and times it was called with."""

    def __init__(self, model, time_input=False):
        self.model, self.time_input, self.seen, self.times = model, time_input, [], []

    def __call__(self, tokens, t=None):
        self.seen.append(tokens.clone())
        self.times.append(t)
        return self.model(tokens)


def _fits(x, chain):
    """Chi-square over whole sequences."""
    length = x.shape[1]
    every = torch.tensor(list(itertools.product(range(V), repeat=length)))
    code = (x * V ** torch.arange(length - 1, -1, -1)).sum(1)
    counts = torch.bincount(code, minlength=V**length)
    expected = chain.log_prob(every).exp() * len(x)
    return stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_nothing_stays_hidden_nothing_is_drawn_twice_and_prompts_are_kept(sampler):
    prompt = torch.full((4, 9), MASK)
    prompt[0, [2, 5]], prompt[1, :8], prompt[2] = 1, 2, 0
    for given in (None, prompt, prompt[0]):
        model = _Watch(ORACLE)
        out = sampler.sample(model, 4, 9, MASK, _gen(), prompt=given)
        assert bool((out.x < V).all())
        assert out.calls == len(model.seen)
        if given is not None:
            kept = given.expand(4, 9)
            assert torch.equal(out.x[kept != MASK], kept[kept != MASK])
        if not getattr(sampler, "corrector", False) and out.row_calls is None:
            for before, after in zip(model.seen, [*model.seen[1:], out.x]):
                assert torch.equal(before[before != MASK], after[before != MASK])
    again = sampler.sample(ORACLE, 4, 9, MASK, _gen(), prompt=prompt)
    assert torch.equal(again.x, sampler.sample(ORACLE, 4, 9, MASK, _gen(), prompt=prompt).x)


@pytest.mark.parametrize("schedule", [LinearMask(), CosineMask()], ids=repr)
def test_first_hitting_has_the_law_of_the_chain(schedule):
    x = FirstHittingSampler(schedule=schedule).sample(ORACLE, 20_000, 4, MASK, _gen()).x
    assert _fits(x, CHAIN) > 1e-3


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("corrector", [False, True])
def test_groups_of_one_are_exact_with_every_refinement(order, corrector):
    x = FirstHittingSampler(4, order=order, corrector=corrector).sample(ORACLE, 20_000, 4, MASK, _gen())
    assert x.calls == 4
    assert _fits(x.x, CHAIN) > 1e-3


def test_one_call_draws_independently_from_the_marginals():
    x = FirstHittingSampler(1).sample(ORACLE, 20_000, 4, MASK, _gen())
    assert x.calls == 1
    assert _fits(x.x, MarkovChain.sticky(V, 1 / 3)) > 1e-3
    assert _fits(x.x, CHAIN) < 1e-6


def test_ancestral_samplers_tend_to_the_law_of_the_chain():
    for sampler in (AncestralMaskedSampler(512), TwoStageMaskedSampler(512, CosineMask())):
        assert _fits(sampler.sample(ORACLE, 4_000, 4, MASK, _gen()).x, CHAIN) > 1e-3


def test_both_ancestral_samplers_have_one_law_at_few_steps():
    # Two steps: the law of the number of equal neighbours differs from the chain's, and is the same for both.
    runs = []
    for sampler in (AncestralMaskedSampler(2), TwoStageMaskedSampler(2)):
        x = sampler.sample(ORACLE, 20_000, 4, MASK, _gen()).x
        runs.append(torch.bincount((x[:, 1:] == x[:, :-1]).sum(1), minlength=4))
    assert stats.chi2_contingency(torch.stack(runs)).pvalue > 1e-3  # pyright: ignore[reportAttributeAccessIssue]


def test_refinements_come_nearer_to_the_law_at_the_same_number_of_groups():
    truth = CHAIN.bigrams(16)

    def distance(**options):
        x = FirstHittingSampler(4, **options).sample(ORACLE, 20_000, 16, MASK, _gen()).x
        found = torch.bincount((V * x[:, :-1] + x[:, 1:]).flatten(), minlength=V * V).view(V, V)
        return float((found / found.sum() - truth).abs().sum()) / 2

    plain = distance()
    assert distance(order=2) < plain - 0.005
    assert distance(corrector=True) < plain - 0.005
    assert FirstHittingSampler(4, corrector=True).sample(ORACLE, 2, 16, MASK, _gen()).calls == 8


@pytest.mark.parametrize("schedule", [LinearMask(), CosineMask(), GeometricMask()], ids=repr)
def test_first_hitting_times_have_their_law(schedule):
    length = 7
    tau = hitting_times(torch.full((5_000,), length), schedule, _gen())
    law = stats.kstest(tau[:, 0].numpy(), lambda s: (1 - schedule.alpha(torch.as_tensor(s)).numpy()) ** length)
    assert law.pvalue > 1e-3
    # Unordered, the hitting times of the tokens are independent with distribution function 1 - alpha.
    every = stats.kstest(
        tau[:, 3].numpy(), lambda s: stats.beta(4, 4).cdf(1 - schedule.alpha(torch.as_tensor(s)).numpy())
    )
    assert every.pvalue > 1e-3
    assert bool((tau.diff(dim=1) <= 0).all())


def test_positions_are_revealed_in_uniform_order():
    order = []

    def model(tokens, t=None):
        order.append((tokens != MASK).clone())
        return torch.zeros(*tokens.shape, V)

    FirstHittingSampler().sample(model, 12_000, 4, MASK, _gen())
    seen = torch.stack([*order, torch.ones_like(order[0])])
    when = seen.long().cumsum(0).eq(1).long().argmax(0)  # 1..4
    counts = torch.unique((when * 5 ** torch.arange(4)).sum(1), return_counts=True)[1]
    assert len(counts) == math.factorial(4)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_one_token_is_drawn_from_the_model_exactly():
    logits = torch.tensor([[[1.0, -1.0, 0.3]]])
    x = (
        FirstHittingSampler()
        .sample(lambda tokens, t=None: logits.expand(len(tokens), -1, -1), 20_000, 1, MASK, _gen())
        .x
    )
    counts = torch.bincount(x[:, 0], minlength=V)
    assert stats.chisquare(counts, logits[0, 0].double().softmax(0) * 20_000).pvalue > 1e-3


def test_costs_are_counted():
    out = FirstHittingSampler().sample(ORACLE, 5, 12, MASK, _gen())
    assert (out.calls, out.draws) == (12, 60)
    prompt = torch.full((2, 12), MASK)
    prompt[0, :9] = 0
    out = FirstHittingSampler().sample(ORACLE, 2, 12, MASK, _gen(), prompt=prompt)
    assert (out.calls, out.draws) == (12, 15)
    model = _Watch(ORACLE)
    out = AncestralMaskedSampler(16).sample(model, 1, 12, MASK, _gen())
    assert out.row_calls is not None
    assert out.calls == len(model.seen) == int(out.row_calls[0])
    assert out.draws > 12
    always = AncestralMaskedSampler(16, cache=False).sample(ORACLE, 1, 12, MASK, _gen())
    assert out.calls < always.calls <= 16
    assert torch.equal(out.x, always.x)


@pytest.mark.parametrize("sampler", [AncestralMaskedSampler(24), TwoStageMaskedSampler(24)], ids=repr)
def test_mean_evaluations_of_a_row_are_the_expected_number(sampler):
    out = sampler.sample(ORACLE, 2_000, 32, MASK, _gen())
    assert float(out.row_calls.double().mean()) == pytest.approx(expected_nfe(24, 32), rel=0.02)


def test_expected_evaluations_have_their_limits():
    assert expected_nfe(1, 100) == 1
    assert expected_nfe(10**9, 50) == pytest.approx(50, rel=1e-6)
    assert expected_nfe(50, 10**6) == pytest.approx(50)


def test_models_that_read_time_get_it_at_every_call():
    for sampler in (FirstHittingSampler(), FirstHittingSampler(2, order=2), FirstHittingSampler(2, corrector=True)):
        model = _Watch(ORACLE, time_input=True)
        sampler.sample(model, 3, 6, MASK, _gen())
        times = torch.stack(model.times)
        assert bool((times.diff(dim=0) < 0).all())
        assert 0 < float(times.min()) <= float(times.max()) < 1
    for sampler in (AncestralMaskedSampler(4, cache=False), TwoStageMaskedSampler(4)):
        model = _Watch(ORACLE, time_input=True)
        sampler.sample(model, 30, 6, MASK, _gen())
        assert [float(t[0]) for t in model.times] == [1.0, 0.75, 0.5, 0.25]


def test_temperature_and_top_p_shape_the_law():
    logits = torch.tensor([[[0.6, 0.3, 0.1]]]).log()

    def model(tokens, t=None):
        return logits.expand(*tokens.shape, -1)

    for make in (
        lambda **k: AncestralMaskedSampler(4, **k),
        lambda **k: TwoStageMaskedSampler(4, **k),
        lambda **k: FirstHittingSampler(**k),
    ):
        assert int(make(temperature=0.0).sample(model, 50, 3, MASK, _gen()).x.sum()) == 0
        counts = torch.bincount(make(top_p=0.8).sample(model, 3_000, 3, MASK, _gen()).x.flatten(), minlength=V)
        assert stats.chisquare(counts[:2], torch.tensor([2 / 3, 1 / 3], dtype=torch.float64) * 9_000).pvalue > 1e-3
        counts = torch.bincount(make(temperature=0.5).sample(model, 3_000, 3, MASK, _gen()).x.flatten(), minlength=V)
        assert stats.chisquare(counts, torch.tensor([36, 9, 1], dtype=torch.float64) / 46 * 9_000).pvalue > 1e-3


class _Short(MaskSchedule):
    def alpha(self, t):
        return 1 - 0.5 * t

    def dalpha(self, t):
        return torch.full_like(t, -0.5)

    def alpha_inv(self, a):
        return 2 * (1 - a)


def test_bad_input_is_refused():
    for make in (AncestralMaskedSampler, TwoStageMaskedSampler):
        with pytest.raises(ValueError, match="steps must be in"):
            make(0)
        with pytest.raises(ValueError, match="alpha\\(1\\) in"):
            make(3, _Short())
    with pytest.raises(ValueError, match="calls must be in"):
        FirstHittingSampler(0)
    with pytest.raises(ValueError, match="calls must be at most the length 4"):
        FirstHittingSampler(5).sample(ORACLE, 1, 4, MASK)
    with pytest.raises(ValueError, match="order must be one of 1, 2; got 3"):
        FirstHittingSampler(order=3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="alpha\\(1\\) in"):
        FirstHittingSampler(schedule=_Short())
    with pytest.raises(ValueError, match="dtype must be one of"):
        FirstHittingSampler(draw_dtype=torch.int64)
    with pytest.raises(ValueError, match="give cache=False"):
        AncestralMaskedSampler(3).sample(_Watch(ORACLE, time_input=True), 1, 4, MASK)
    for sampler in SAMPLERS:
        with pytest.raises(ValueError, match="outside the vocabulary"):
            sampler.sample(ORACLE, 1, 4, 2)
        with pytest.raises(ValueError, match="batch must be in"):
            sampler.sample(ORACLE, 0, 4, MASK)
        for value in (math.nan, -math.inf):
            with pytest.raises(ValueError, match="largest logit"):
                sampler.sample(lambda tokens, t=None, v=value: torch.full((*tokens.shape, V), v), 1, 4, MASK)
