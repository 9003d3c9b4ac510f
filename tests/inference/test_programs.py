"""What programs mean: the four equations, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from holdfast.inference import (
    Bernoulli,
    Categorical,
    Distribution,
    Normal,
    Sample,
    Score,
    TorchDistribution,
    Uniform,
    auxiliary,
    bind,
    enumerate_measure,
    importance,
    observe,
    population,
    run,
    score,
    unit,
    unweighted,
    weighted,
)
from tests.inference.models import branching, function, hmm, hmm_masses, programs, shallow, sprinkler, table, weights

LAWS = settings(max_examples=200, deadline=None, derandomize=True)
FEWER = settings(max_examples=60, deadline=None, derandomize=True)


def close(a, b, atol=1e-12):
    return all(abs(a.get(x, 0.0) - b.get(x, 0.0)) <= atol for x in {*a, *b})


@LAWS
@given(programs, st.lists(shallow, min_size=4, max_size=4), st.one_of(st.just(0.0), weights), st.integers(0, 3))
def test_return_bind_and_score_mean_what_they_should(p, then, r, x):
    m = enumerate_measure(p)
    assert enumerate_measure(unit(x)) == {x: 1.0}
    assert close(enumerate_measure(bind(unit(x), lambda _: p)), m)
    assert close(enumerate_measure(bind(p, unit)), m)

    integral: dict[int, float] = {}
    for value, mass in m.items():
        for y, after in enumerate_measure(then[value]).items():
            integral[y] = integral.get(y, 0.0) + mass * after
    assert close(enumerate_measure(bind(p, lambda value: then[value])), integral)

    def scored():
        yield score(r)
        return (yield from p())

    assert close(enumerate_measure(scored), {value: r * mass for value, mass in m.items()})


@FEWER
@given(st.lists(weights, min_size=1, max_size=5))
def test_a_draw_is_its_distribution(w):
    def p():
        return (yield Sample(Categorical(w)))

    assert close(enumerate_measure(p), {i: x / sum(w) for i, x in enumerate(w)})


@FEWER
@given(shallow, shallow)
def test_independent_programs_commute(p, q):
    one = bind(p, lambda x: bind(q, lambda y: unit((x, y))))
    other = bind(q, lambda y: bind(p, lambda x: unit((x, y))))
    assert close(enumerate_measure(one), enumerate_measure(other))


@FEWER
@given(programs)
def test_bind_is_associative_and_weights_go_in_and_out(p):
    f, g = (lambda x: weighted(unit(x + 1))), (lambda x: unweighted(unit(x)))
    assert close(enumerate_measure(bind(bind(p, f), g)), enumerate_measure(bind(p, lambda x: bind(f(x), g))))
    m = enumerate_measure(p)
    assert close(enumerate_measure(weighted(p)), m)
    assert close(enumerate_measure(unweighted(weighted(p))), m)
    assert close(enumerate_measure(auxiliary(p)), m)


def test_known_measures_come_out():
    assert close(enumerate_measure(sprinkler), {False: 0.448, True: 0.0546})
    assert close(enumerate_measure(hmm), hmm_masses((0.9, 0.8, -0.7)))
    stop, go = 0.4, 0.6
    two = go * 0.8 * go * 1.1 * (0.3 + 0.7 * 0.7)
    expected = {0: stop, 1: go * 0.8 * stop, 2: two * stop, 3: two * go * 1.4}
    assert close(enumerate_measure(branching), expected)


def test_functions_are_told_apart_by_their_results():
    m = enumerate_measure(function, key=table)
    assert len(m) == 6
    assert abs(m[(1, 2)] - 0.3 * 0.5 / 2) < 1e-12  # x + 1 at 2 is 3, one away from 2


def test_enumeration_agrees_with_runs():
    exact = enumerate_measure(hmm)
    s = importance(hmm, 20_000, rng=100)
    z = math.fsum(exact.values())
    share = s.logw - math.log(z)
    spread = float((share - share.mean()).std()) / math.sqrt(len(share))
    assert abs(math.exp(s.log_evidence) / z - 1) < 6 * spread + 0.02
    posterior = math.fsum(m for path, m in exact.items() if path[0] == 1) / z
    assert abs(s.mean(lambda path: path[0] == 1) - posterior) < 4 * math.sqrt(0.25 / s.ess)


def test_rejection_cuts_a_path_so_that_endless_ones_after_it_are_not_met():
    def p():
        if (yield Sample(Bernoulli(0.5))):
            yield score(0.0)
            while True:
                yield Sample(Bernoulli(0.5))

    assert enumerate_measure(p) == {None: 0.5}


def test_scores_of_zero_give_evidence_zero_and_no_nan():
    def never():
        yield Sample(Bernoulli(0.5))
        yield Score(-math.inf)
        return 1

    assert enumerate_measure(never) == {}
    s = importance(never, 5, rng=0)
    assert s.log_evidence == -math.inf
    assert s.ess == 0
    assert not s.weights.any()
    with pytest.raises(ValueError, match="every weight is 0"):
        s.mean()


@pytest.mark.parametrize(
    "dist",
    [
        Normal(1.0, 2.0),
        Uniform(-1, 3),
        Categorical([1, 0, 3], ["a", "b", "c"]),
        Bernoulli(0.3),
        TorchDistribution(torch.distributions.Gamma(2.0, 1.0)),
        TorchDistribution(torch.distributions.Categorical(torch.tensor([0.2, 0.8]))),
        TorchDistribution(torch.distributions.Poisson(3.0)),
    ],
    ids=repr,
)
def test_draws_follow_the_density_and_leave_the_global_state_alone(dist):
    rng, before = np.random.default_rng(100), torch.get_rng_state()
    n = 400
    draws = [dist.sample(rng) for _ in range(n)]
    assert torch.equal(before, torch.get_rng_state())
    logp = np.array([dist.log_prob(x) for x in draws])
    assert np.isfinite(logp).all()
    # The mean log density of draws is minus the entropy, which only the right law gives.
    reference = {
        "Normal(1, 2)": -0.5 * math.log(2 * math.pi * math.e * 4),
        "Uniform(-1, 3)": -math.log(4),
        "Categorical(3 values)": 0.25 * math.log(0.25) + 0.75 * math.log(0.75),
        "Bernoulli(0.3)": 0.3 * math.log(0.3) + 0.7 * math.log(0.7),
    }
    entropy = reference.get(repr(dist))
    if entropy is None:
        d = dist.dist
        entropy = -float(stats.poisson(3).entropy() if isinstance(d, torch.distributions.Poisson) else d.entropy())
    assert abs(logp.mean() - entropy) <= 4 * logp.std() / math.sqrt(n) + 1e-3


def test_torch_distributions_are_wrapped_and_score_alike():
    assert isinstance(Sample(torch.distributions.Normal(0.0, 1.0)).dist, TorchDistribution)
    ours, theirs = observe(Normal(0.5, 2), 1.25), observe(torch.distributions.Normal(0.5, 2.0), 1.25)
    assert abs(ours.logw - theirs.logw) < 1e-6
    assert observe(torch.distributions.Gamma(1.0, 1.0), -1.0).logw == -math.inf
    vector = Sample(torch.distributions.Normal(torch.zeros(3), 1.0)).dist
    assert vector.sample(np.random.default_rng(0)).shape == (3,)
    assert abs(vector.log_prob(torch.zeros(3)) + 1.5 * math.log(2 * math.pi)) < 1e-5


def test_the_same_seed_gives_the_same_run():
    assert run(hmm, rng=3) == run(hmm, rng=3)
    assert importance(hmm, 20, rng=3).values == importance(hmm, 20, rng=3).values


def normal_choice():
    yield Sample(Bernoulli(0.5))
    return (yield Sample(Normal(0, 1), "mu"))


def endless():
    while (yield Sample(Bernoulli(0.5), "more")):
        pass


def yields_three():
    yield 3


def listed():
    yield Sample(Bernoulli(0.5))
    return [1]


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, "non-negative number, got -0.5", lambda: score(-0.5)),
        (ValueError, "non-negative number, got nan", lambda: score(math.nan)),
        (ValueError, "below \\+inf, got nan", lambda: Score(math.nan)),
        (ValueError, "below \\+inf, got inf", lambda: Score(math.inf)),
        (TypeError, "yields Sample or Score, got 3", lambda: run(yields_three)),
        (TypeError, "yields Sample or Score, got 3", lambda: enumerate_measure(yields_three)),
        (TypeError, "Sample needs a .* distribution, got 3", lambda: Sample(3)),
        (TypeError, "pass the function, not its call", lambda: run(sprinkler())),
        (TypeError, "returned 3", lambda: run(lambda: 3)),
        (
            ValueError,
            r"choice 2 \('mu'\) draws from Normal\(0, 1\), which has no",
            lambda: enumerate_measure(normal_choice),
        ),
        (
            ValueError,
            r"than 100 paths: .* choice \d+ \('more'\) offered 2",
            lambda: enumerate_measure(endless, 100),
        ),
        (ValueError, "max_paths must be in", lambda: enumerate_measure(sprinkler, 0)),
        (TypeError, "not hashable; pass key=", lambda: enumerate_measure(listed)),
        (ValueError, "number of particles must be in", lambda: importance(sprinkler, 0)),
        (ValueError, "number of particles must be in", lambda: population(sprinkler, 0)),
        (ValueError, "p must be in", lambda: Bernoulli(1.5)),
        (ValueError, "probs must be", lambda: Categorical([])),
        (ValueError, "probs must be", lambda: Categorical([1, -1])),
        (ValueError, "positive finite sum", lambda: Categorical([0, 0])),
        (ValueError, "2 probs but 1 values", lambda: Categorical([1, 1], ["a"])),
        (ValueError, "std must be in", lambda: Normal(0, 0)),
        (ValueError, "mean must be in", lambda: Normal(math.inf, 1)),
        (ValueError, "low < high", lambda: Uniform(1, 1)),
    ],
)
def test_what_is_refused(error, message, call):
    with pytest.raises(error, match=message):
        call()


def test_a_distribution_of_ones_own_works_everywhere():
    class Die(Distribution):
        def sample(self, rng):
            return int(rng.integers(1, 7))

        def log_prob(self, value):
            return -math.log(6) if value in range(1, 7) else -math.inf

        def outcomes(self):
            return [(k, 1 / 6) for k in range(1, 7)]

    def p():
        a = yield Sample(Die())
        return a + (yield Sample(Die()))

    assert abs(enumerate_measure(p)[7] - 1 / 6) < 1e-12
    assert Die().support() == (1, 2, 3, 4, 5, 6)
