"""Populations, pauses and their compositions keep the measure, to rounding."""

from __future__ import annotations

import math
import random
from functools import partial

import pytest
from hypothesis import given, settings

from holdfast.inference import (
    Bernoulli,
    Categorical,
    Population,
    Sample,
    Score,
    bind,
    check_preserves,
    collapse,
    enumerate_measure,
    enumerate_paths,
    flatten,
    importance,
    moved,
    observe,
    pmmh,
    population,
    push_evidence,
    rejuvenation,
    resample,
    resample_move,
    run,
    score,
    smc,
    smc2,
    spawn,
    stepwise_smc,
    suspend,
    total_variation,
    unit,
    with_parameters,
)
from tests.inference.models import branching, coin, function, hmm, hmm_masses, shallow, sprinkler, table

METHODS = ["multinomial", "residual", "stratified", "systematic"]


def chain(ys=(True, False)):
    """A chain of two states seen through noise."""
    x = yield Sample(Bernoulli(0.4))
    for i, y in enumerate(ys):
        if i:
            x = yield Sample(Bernoulli(0.8 if x else 0.3))
        yield observe(Bernoulli(0.9 if x else 0.25), y)
    return x


def laws(p, key):
    out = {}
    for value, mass in enumerate_paths(p):
        out[key(value)] = out.get(key(value), 0.0) + mass
    return out


def particles(pop):
    return tuple((x, round(w, 11)) for x, w in zip(pop.values, pop.logw))


TRANSFORMS = {
    "two copies": lambda p: population(p, 2),
    "three copies": lambda p: population(p, 3),
    "copies of copies": lambda p: spawn(population(p, 2), 2),
    "push": lambda p: bind(population(p, 2), push_evidence),
    "collapse": lambda p: bind(population(p, 2), collapse),
    "nested": lambda p: bind(population(bind(population(p, 2), push_evidence), 1), lambda pop: unit(flatten(pop))),
    "pause": lambda p: suspend(p).finish(),
    "advance": lambda p: suspend(p).advance().advance().finish(),
    "hoist": lambda p: suspend(p).hoist_first(lambda q: spawn(q, 2)).advance().finish(),
    "smc, two steps": lambda p: smc(p, 2, 2),
    "smc, collapsed": lambda p: bind(smc(p, 2, 2), collapse),
    "smc, threshold": lambda p: smc(p, 2, 2, "systematic", ess_threshold=0.8),
    "stepwise smc": lambda p: bind(stepwise_smc(p, 2, 2), collapse),
    "resample-move": lambda p: resample_move(p, 2, 1),
    "frozen resample-move": lambda p: resample_move(p, 2, 1, freeze=True),
    **{f"resample, {m}": lambda p, m=m: bind(population(p, 2), lambda pop: resample(pop, m)) for m in METHODS},
    **{f"smc, {m}": lambda p, m=m: smc(p, 2, 1, m) for m in METHODS},
    "three particles, residual": lambda p: bind(population(p, 3), lambda pop: resample(pop, "residual")),
}


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("model", [sprinkler, chain])
def test_the_measure_is_kept(model, name):
    report = check_preserves(model, TRANSFORMS[name], atol=1e-12)
    assert report, str(report)


@pytest.mark.parametrize("name", ["collapse", "smc, systematic", "advance", "push", "resample-move"])
def test_the_measure_is_kept_with_a_random_number_of_scores_and_with_functions_as_values(name):
    assert check_preserves(branching, TRANSFORMS[name], atol=1e-12)
    assert check_preserves(function, TRANSFORMS[name], atol=1e-12, key=table)


def test_the_measure_of_paths_is_kept_where_a_step_has_three_states():
    report = check_preserves(partial(hmm, (0.9, -0.7)), lambda p: smc(p, 2, 1), atol=1e-12)
    assert report, str(report)
    assert max(abs(report.after[k] - m) for k, m in hmm_masses((0.9, -0.7)).items()) < 1e-12


@settings(max_examples=40, deadline=None, derandomize=True)
@given(shallow)
def test_random_programs_are_kept(p):
    for name in ("two copies", "collapse", "resample, systematic", "advance", "smc, multinomial", "resample-move"):
        report = check_preserves(p, TRANSFORMS[name], atol=1e-12)
        assert report, f"{name}: {report}"


def test_one_particle_of_smc_is_importance_sampling_in_law():
    for model in (sprinkler, chain, branching):
        one = laws(population(model, 1), particles)
        for steps in (0, 1, 3):
            many = laws(smc(model, 1, steps), particles)
            assert one.keys() == many.keys()
            assert all(abs(one[k] - many[k]) < 1e-12 for k in one)


def test_advancing_a_finished_program_is_the_identity_and_finishing_takes_it_in():
    s = suspend(sprinkler).hoist_first(lambda q: spawn(q, 2))
    done = s.advance().advance()
    seen = lambda pop: tuple((t.finished, t.value, t.log_weight, w) for t, w in zip(pop.values, pop.logw))  # noqa: E731
    assert all(t.finished for pop, _ in enumerate_paths(done.layer) for t in pop.values)
    assert laws(done.layer, seen) == laws(done.advance().layer, seen)
    finished = laws(s.finish(), particles)
    advanced = laws(s.advance().finish(), particles)
    assert finished.keys() == advanced.keys()
    assert all(abs(finished[k] - advanced[k]) < 1e-12 for k in finished)


def test_the_total_weight_is_an_unbiased_estimate_of_the_evidence():
    for resampler in METHODS:
        mean = sum(m * math.exp(pop.log_evidence) for pop, m in enumerate_paths(smc(chain, 2, 2, resampler)))
        assert abs(mean - sum(enumerate_measure(chain).values())) < 1e-12


def test_siblings_share_their_past_and_go_apart():
    pop = run(smc(partial(hmm, (0.9, 0.8, 0.7, -5.0)), 50, 3), rng=100).value
    assert len({path[:1] for path in pop.values}) <= 3
    assert len(set(pop.values)) > 10
    assert abs(pop.log_evidence - math.log(sum(hmm_masses((0.9, 0.8, 0.7, -5.0)).values()))) < 1.0


def test_the_same_seed_gives_the_same_population():
    a, b = (run(resample_move(hmm, 10, 2, 2), rng=5).value for _ in range(2))
    assert a.values == b.values
    assert a.logw == b.logw


def test_long_programs_do_not_exhaust_the_stack():
    def long():
        for _ in range(1500):
            x = yield Sample(Bernoulli(0.5))
            yield Score(-0.1 * x)
        return x

    assert len(run(smc(long, 1, 1400), rng=0).value) == 1


def test_weights_of_zero_pass_through_every_composition():
    def never():
        x = yield Sample(Bernoulli(0.5))
        yield score(0.0)
        yield Score(-math.inf)
        return x

    for p in (smc(never, 3, 2), resample_move(never, 3, 2, 2), suspend(never).advance().finish()):
        pop = run(p, rng=0).value
        assert pop.log_evidence == -math.inf
        assert pop.ess == 0
        assert pop.weights == [0.0] * len(pop)
    assert run(bind(smc(never, 2, 1), collapse), rng=0).logw == -math.inf
    assert enumerate_measure(stepwise_smc(never, 2, 2)) == {}


def prior():
    return (yield Sample(Categorical([0.5, 0.3, 0.2], [0.1, 0.5, 0.9]), "theta"))


def model(theta, ys=(True, False)):
    x = yield Sample(Bernoulli(theta))
    for i, y in enumerate(ys):
        if i:
            x = yield Sample(Bernoulli(0.7 if x else theta))
        yield observe(Bernoulli(0.8 if x else 0.3), y)
    return x


def joint():
    theta = yield from prior()
    return theta, (yield from model(theta))


def test_a_filter_inside_a_program_means_the_joint_and_chains_over_it_keep_that():
    short = lambda theta: partial(model, theta, (True,))  # noqa: E731

    def exact():
        theta = yield from prior()
        return theta, (yield from model(theta, (True,)))

    kernel = {"theta": lambda x: Categorical([0.6, 0.3, 0.1] if x == 0.1 else [0.2, 0.2, 0.6], [0.1, 0.5, 0.9])}
    inside = with_parameters(prior, short, 2, 1)
    assert check_preserves(exact, lambda _: with_parameters(prior, short, 2, 1, stepwise=True), 1e-12)
    assert check_preserves(exact, lambda _: inside, 1e-12)
    assert check_preserves(exact, lambda _: moved(with_parameters(prior, short, 2, 0)), 1e-12)
    assert check_preserves(exact, lambda _: moved(with_parameters(prior, short, 1, 1), 1, kernel), 1e-12)


def test_smc2_keeps_the_joint_of_parameters_and_states():
    def two():
        return (yield Sample(Bernoulli(0.3), "theta"))

    def seen(theta):
        x = yield Sample(Bernoulli(0.9 if theta else 0.2))
        yield observe(Bernoulli(0.8 if x else 0.3), True)
        return x

    def both():
        theta = yield from two()
        return theta, (yield from seen(theta))

    report = check_preserves(both, lambda _: smc2(two, lambda t: partial(seen, t), 2, 1, 1, ess_threshold=None), 1e-12)
    assert report, str(report)


def test_pmmh_and_smc2_find_the_posterior():
    exact = enumerate_measure(joint)
    target = sum(m for (theta, _), m in exact.items() if theta == 0.5) / sum(exact.values())
    result = pmmh(prior, lambda theta: partial(model, theta), 4, 1, 1200, 50, rng=100)
    hits = [float(theta == 0.5) for theta, _ in result.values]
    blocks = [sum(hits[i : i + 60]) / 60 for i in range(0, 1200, 60)]
    mean = sum(hits) / 1200
    se = math.sqrt(sum((b - mean) ** 2 for b in blocks) / 19 / 20)
    assert abs(mean - target) < 4 * se
    assert 0 < result.acceptance < 1
    pop = run(smc2(prior, lambda theta: partial(model, theta), 500, 4, 2), rng=100).value
    share = sum(w for w, (theta, _) in zip(pop.weights, pop.values) if theta == 0.5)
    assert abs(share - target) < 4 * math.sqrt(target * (1 - target) / 200)
    assert abs(pop.log_evidence - math.log(sum(exact.values()))) < 0.15


def test_importance_agrees_with_smc_on_the_evidence():
    z = math.log(sum(enumerate_measure(hmm).values()))
    assert abs(importance(hmm, 4000, rng=100).log_evidence - z) < 0.1
    assert abs(run(smc(hmm, 500, 2), rng=100).value.log_evidence - z) < 0.2


def forgetful(p):
    """A resampling that forgets the total weight."""
    drop = lambda pop: unit(Population(pop.values, [-math.log(len(pop))] * len(pop)))  # noqa: E731
    s = suspend(p).hoist_first(lambda q: spawn(q, 2))
    for _ in range(2):
        s = s.hoist_first(lambda q: bind(bind(q, resample), drop)).advance()
    return s.finish()


def test_the_criterion_shows_what_a_broken_algorithm_does():
    report = check_preserves(sprinkler, forgetful)
    assert not report
    assert report.total_variation > 0.05
    assert report.difference == abs(report.before[report.value] - report.after[report.value])
    assert "not preserved: " in str(report)
    assert "preserved: 2 values" in str(check_preserves(sprinkler, lambda p: smc(p, 2, 2)))
    assert total_variation({}, {"x": 1.0}) == 1.0
    assert total_variation({"x": 2.0}, {"x": 5.0}) == 0.0
    # A wrong evidence alone is found although the posterior is right.
    doubled = lambda p: bind(p, lambda x: bind(weightless, lambda _: unit(x)))  # noqa: E731

    def weightless():
        yield Score(math.log(2))

    report = check_preserves(coin, doubled)
    assert not report
    assert report.total_variation == 0.0


def leaky():
    x = yield Sample(Bernoulli(0.5), f"x{random.random()}")
    yield Score(-0.5)
    yield Score(-0.5)
    return x


def leaky_score():
    x = yield Sample(Bernoulli(0.5))
    yield Score(-random.random())
    yield Score(-0.5)
    return x


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, "number of particles must be in", lambda: smc(coin, 0, 1)),
        (ValueError, "steps must be in", lambda: smc(coin, 1, -1)),
        (ValueError, "resampler must be one of", lambda: smc(coin, 1, 1, "best")),
        (ValueError, "ess_threshold must be in", lambda: smc(coin, 1, 1, ess_threshold=2.0)),
        (ValueError, "moves must be in", lambda: rejuvenation(-1)),
        (ValueError, "number of particles must be in", lambda: spawn(population(coin, 1), 0)),
        (TypeError, "returns a Population", lambda: run(spawn(coin, 2), rng=0)),
        (ValueError, "not replayable: .* met the choice x0", lambda: run(smc(leaky, 5, 1), rng=0)),
        (ValueError, "not replayable: .* scores add up", lambda: run(smc(leaky_score, 5, 1), rng=0)),
        (ValueError, "atol must be in", lambda: check_preserves(coin, lambda p: p, -1.0)),
    ],
)
def test_what_is_refused(error, message, call):
    with pytest.raises(error, match=message):
        call()
