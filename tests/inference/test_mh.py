"""Metropolis-Hastings on traces and Green's kernels leave their target invariant."""

from __future__ import annotations

import math
import random
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from holdfast.inference import (
    Bernoulli,
    Categorical,
    Normal,
    Sample,
    Score,
    Uniform,
    bind,
    check_preserves,
    check_replayable,
    draw_trace,
    enumerate_measure,
    enumerate_paths,
    freeze,
    green_kernel,
    importance,
    marginal,
    mh,
    mh_move,
    mh_propose,
    mh_step,
    moved,
    observe,
    run,
    score,
    trace,
    unit,
)
from tests.inference.models import branching, coin, function, hmm, programs, shallow, sprinkler, table


def key(t):
    return tuple((a, c.value) for a, c in t.choices.items())


def four_se(values, truth):
    """Whether a chain's mean is within four standard errors, taken from the means of 25 blocks."""
    v = np.asarray(values, float)
    blocks = v[: len(v) // 25 * 25].reshape(25, -1).mean(1)
    return abs(v.mean() - truth) <= 4 * blocks.std(ddof=1) / 5


@pytest.mark.parametrize("model", [sprinkler, branching, coin, partial(hmm, (0.9, -0.7))])
@pytest.mark.parametrize("steps", [1, 2])
def test_moves_keep_the_measure(model, steps):
    if steps == 2 and isinstance(model, partial):
        steps = 1
    report = check_preserves(model, lambda p: moved(p, steps), atol=1e-12)
    assert report, str(report)


def test_moves_keep_measures_on_functions():
    assert check_preserves(function, lambda p: moved(p, 2), atol=1e-12, key=table)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(programs)
def test_moves_keep_the_measure_of_random_programs(p):
    report = check_preserves(p, moved, atol=1e-12)
    assert report, str(report)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(shallow)
def test_traces_forgotten_are_the_program(p):
    assert check_preserves(p, lambda q: marginal(trace(q)), atol=1e-12)


@pytest.mark.parametrize("model", [coin, branching, sprinkler])
def test_moves_are_in_detailed_balance_on_traces(model):
    mass: dict = {}
    traces = {}
    for t, m in enumerate_paths(trace(model)):
        mass[key(t)] = mass.get(key(t), 0.0) + m
        traces[key(t)] = t
    flow = {}
    for k, t in traces.items():
        for target, m in enumerate_measure(mh_move(t), key=key).items():
            flow[k, target] = mass[k] * m
    assert len(flow) > len(mass)
    for (a, b), f in flow.items():
        assert abs(f - flow.get((b, a), 0.0)) < 1e-12


def test_kernels_of_ones_own_keep_the_measure():
    def p():
        a = yield Sample(Categorical([0.2, 0.5, 0.3]), "a")
        b = yield Sample(Bernoulli(0.2 + 0.2 * a), "b")
        yield observe(Bernoulli(0.7 if b else 0.2), a == 1)
        return a, b

    lopsided = {
        "a": lambda x: Categorical([[0.1, 0.9, 0.0], [0.3, 0.3, 0.4], [0.5, 0.25, 0.25]][x]),
        "b": lambda x: Bernoulli(0.9),
    }
    assert check_preserves(p, lambda q: moved(q, 2, lopsided), atol=1e-12)


def test_a_choice_with_a_name_keeps_its_value_across_branches():
    def p():
        long = yield Sample(Bernoulli(0.5), "long")
        extra = (yield Sample(Bernoulli(0.5), "extra")) if long else None
        x = yield Sample(Normal(0, 1), "x")
        return long, extra, x

    t, seen, rng = draw_trace(p, rng=1), set(), np.random.default_rng(100)
    for _ in range(200):
        new = run(mh_propose(t), rng).value.trace
        if new["long"] != t["long"]:
            assert new["x"] == t["x"]
            seen.add(new["long"])
        t = new
    assert seen == {True, False}
    with pytest.raises(KeyError, match="choices: long, "):
        t["y"]


def test_sizes_of_support_that_change_are_handled():
    def p():
        n = yield Sample(Categorical([0.5, 0.2, 0.3], [1, 2, 3]), "n")
        k = yield Sample(Categorical([1.0] * n), "k")
        yield score(0.3 + 0.2 * k)
        return n, k

    assert check_preserves(p, lambda q: moved(q, 2), atol=1e-12)


def test_frozen_choices_stay_and_later_ones_move():
    t = draw_trace(hmm, rng=0)
    assert len(t.free) == 4
    assert run(mh_move(freeze(t), steps=5), rng=0).value.choices == t.choices
    half = run(bind(unit(None), lambda _: trace(sprinkler)), rng=0).value
    assert freeze(half).free == []


def test_a_proposal_that_the_prior_rules_out_is_refused_before_the_program_meets_it():
    far = {"theta": lambda x: Normal(x + 5, 0.1)}
    chain = mh(bernoulli_model, 20, rng=0, proposals=far)
    assert chain.acceptance == 0
    assert len(set(chain.values)) == 1


def bernoulli_model(ys=(1, 1, 0, 1, 1, 1, 0, 1)):
    theta = yield Sample(Uniform(0, 1), "theta")
    for y in ys:
        yield observe(Bernoulli(theta), bool(y))
    return theta


def normal_model(ys=(1.2, 0.3, 2.0)):
    mu = yield Sample(Normal(0, 2), "mu")
    for y in ys:
        yield observe(Normal(mu, 1), y)
    return mu


def test_known_posteriors_are_found_by_chains_and_by_importance_sampling():
    beta = 7 / 10  # Beta(1 + 6, 1 + 2)
    normal = 3.5 / (3 + 1 / 4)
    for model, truth, name, width in ((bernoulli_model, beta, "theta", 0.2), (normal_model, normal, "mu", 1.0)):
        assert four_se(mh(model, 4000, 200, rng=100).values, truth)
        walk = mh(model, 4000, 200, rng=101, proposals={name: lambda x, s=width: Normal(x, s)})
        assert four_se(walk.values, truth)
        s = importance(model, 4000, rng=102)
        sd = math.sqrt(s.mean(lambda x, m=truth: (x - m) ** 2))
        assert abs(s.mean() - truth) < 4 * sd / math.sqrt(s.ess)


def test_torch_distributions_serve_as_priors_and_kernels():
    def model():
        theta = yield Sample(torch.distributions.Beta(2.0, 1.0), "theta")
        yield observe(torch.distributions.Bernoulli(theta), 1.0)
        return theta

    chain = mh(model, 400, 20, rng=100)
    assert four_se(chain.values, 3 / 4)


def test_chains_thin_count_and_go_on():
    first = mh(normal_model, 10, 5, 3, rng=0)
    assert len(first.values) == len(first.log_weights) == 3
    more = mh(normal_model, 5, rng=1, start_at=first.last)
    assert len(more.values) == 5
    assert mh(normal_model, 50, rng=7).values == mh(normal_model, 50, rng=7).values
    step = mh_step(normal_model, first.last, rng=0)
    assert step.program is normal_model


def test_a_hard_condition_is_met_before_the_chain_starts():
    def even():
        a = yield Sample(Categorical([1] * 6))
        b = yield Sample(Categorical([1] * 6))
        yield score(1.0 if (a + b) % 6 == 0 else 0.0)
        return a

    assert draw_trace(even, rng=100).log_weight == 0

    def impossible():
        yield Sample(Bernoulli(0.5))
        yield score(0.0)

    with pytest.raises(ValueError, match="none of 50 runs has positive weight"):
        draw_trace(impossible, rng=0, attempts=50)
    with pytest.raises(ValueError, match="weight 0"):
        mh_step(impossible, run(trace(impossible), rng=0).value)


def leaky_value():
    yield Sample(Bernoulli(0.5))
    return random.random()


def leaky_dist():
    return (yield Sample(Normal(random.random(), 1)))


def leaky_score():
    x = yield Sample(Bernoulli(0.5))
    yield Score(-random.random())
    return x


def leaky_length():
    n = 1 + (random.random() < 0.5)
    for _ in range(n):
        yield Sample(Bernoulli(0.5))


def test_leaks_are_found_by_one_run_again():
    check_replayable(draw_trace(hmm, rng=0))
    check_replayable(draw_trace(function, rng=0))
    for leak, message in (
        (leaky_value, "it returned 0"),
        (leaky_dist, "distribution of the choice #1"),
        (leaky_score, "scores add up"),
    ):
        with pytest.raises(ValueError, match=message):
            mh(leak, 5, rng=0)

    def twenty_times():
        for seed in range(20):
            check_replayable(draw_trace(leaky_length, rng=seed))

    with pytest.raises(ValueError, match="not replayable"):
        twenty_times()


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("at least one free choice", lambda: mh(unit(3), 5)),
        ("at least one free choice", lambda: mh_propose(draw_trace(unit(3)))),
        ("n_steps must be in", lambda: mh(coin, 0)),
        ("burn_in must be in", lambda: mh(coin, 1, -1)),
        ("thin must be in", lambda: mh(coin, 5, thin=6)),
        ("of another program", lambda: mh_step(coin, draw_trace(hmm, rng=0))),
        ("steps must be in", lambda: mh_move(draw_trace(coin, rng=0), steps=-1)),
        ("attempts must be in", lambda: draw_trace(coin, attempts=0)),
    ],
)
def test_what_is_refused(message, call):
    with pytest.raises(ValueError, match=message):
        call()


def finite_kernel(logp, q):
    def propose(i):
        return (yield Sample(Categorical(q[i])))

    def log_ratio(i, j):
        return math.log(q[j][i]) - math.log(q[i][j]) if q[j][i] > 0 else -math.inf

    return green_kernel(lambda i: logp[i], propose, log_ratio)


@pytest.mark.parametrize("seed", range(100, 110))
def test_green_kernels_are_in_detailed_balance(seed):
    rng = np.random.default_rng(seed)
    a, q = rng.dirichlet(np.ones(6)), rng.dirichlet(np.ones(6), 6)
    if seed >= 105:  # moves that cannot be undone
        q[0, 3] = q[2, 1] = 0
        q /= q.sum(1, keepdims=True)
    kernel = finite_kernel(np.log(a), q.tolist())
    p = np.zeros((6, 6))
    for i in range(6):
        for j, m in enumerate_measure(kernel.move(i)).items():
            p[i, j] = m
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-12)
    flow = a[:, None] * p
    np.testing.assert_allclose(flow, flow.T, atol=1e-12)
    off = q * np.array([[kernel.acceptance(i, j) if q[i, j] > 0 else 0 for j in range(6)] for i in range(6)])
    np.testing.assert_allclose((p - off)[~np.eye(6, dtype=bool)], 0, atol=1e-12)
    if seed >= 105:
        assert kernel.acceptance(3, 0) == 0
        assert p[3, 0] == 0


def test_a_kernel_that_jumps_between_dimensions_finds_the_mixture_weight():
    """Nothing with mass 0.3, or a Gaussian point with mass 0.7."""

    def logdensity(x):
        return math.log(0.3) if x is None else math.log(0.7) + Normal(1.0, 0.5).log_prob(x)

    birth = Normal(0.0, 2.0)

    def propose(x):
        if x is None:
            return (yield Sample(birth))
        if (yield Sample(Bernoulli(0.5))):
            return None
        return x + 0.5 * (yield Sample(Normal(0, 1)))

    def log_ratio(x, y):
        if x is None:
            return math.log(0.5) - birth.log_prob(y)
        return birth.log_prob(x) - math.log(0.5) if y is None else 0.0

    states = green_kernel(logdensity, propose, log_ratio).chain(None, 100_000, rng=100)
    assert four_se([x is None for x in states], 0.3)
    assert four_se([0.0 if x is None else x for x in states], 0.7)


def test_a_green_kernel_moves_functions():
    """The target is on functions of {0, 1}: one of them is flipped at a time."""
    logp = {(0, 0): -1.0, (0, 1): 0.0, (1, 0): -2.0, (1, 1): 0.5}

    def flip(f):
        at = yield Sample(Categorical([0.3, 0.7]))
        return lambda x: 1 - f(x) if x == at else f(x)

    kernel = green_kernel(lambda f: logp[table(f)], flip, lambda f, g: 0.0)

    def target():
        k = yield Sample(Categorical([math.exp(v) for v in logp.values()], list(logp)))
        return lambda x: k[x]

    assert check_preserves(target, lambda p: bind(p, kernel.move), atol=1e-12, key=table)


def test_green_kernels_refuse_what_has_no_ratio():
    kernel = green_kernel(
        lambda x: -math.inf if x < 0 else math.nan if x > 5 else 0.0, lambda x: None, lambda x, y: 0.0
    )
    assert kernel.acceptance(1.0, -1.0) == 0
    with pytest.raises(ValueError, match="start where it is finite"):
        kernel.acceptance(-1.0, 1.0)
    with pytest.raises(ValueError, match="not NaN"):
        kernel.acceptance(1.0, 6.0)
    with pytest.raises(ValueError, match="n_steps must be in"):
        kernel.chain(1.0, 0)
