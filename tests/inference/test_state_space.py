"""The filter on tensors: against exact filters, and against itself in other shapes."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch

from holdfast.inference import importance, run, smc, smc_state_space
from tests.inference.models import MEANS, ROWS, hmm, hmm_masses

A, Q, R = 0.9, 0.5, 0.7
Y = torch.tensor([0.5, 1.2, 0.1, -0.8, -2.0, 0.3]).double()
METHODS = ["multinomial", "residual", "stratified", "systematic"]


def noise(shape, g):
    return torch.randn(shape, generator=g, dtype=torch.float64)


LINEAR = (
    lambda b, n, g: noise((b, n), g),
    lambda x, t, g: A * x + Q * noise(x.shape, g),
    lambda y, x, t: torch.distributions.Normal(x, R).log_prob(y),
)


def kalman(ys):
    """Log-evidence and filtering means of the linear model."""
    m, v, out, means = 0.0, 1.0, 0.0, []
    for t, y in enumerate(ys):
        if t:
            m, v = A * m, A * A * v + Q * Q
        s = v + R * R
        out += -0.5 * ((y - m) ** 2 / s + math.log(2 * math.pi * s))
        m, v = m + v / s * (y - m), v * R * R / s
        means.append(m)
    return out, means


@pytest.mark.parametrize("resampler", METHODS)
def test_evidence_and_means_of_a_linear_gaussian_model_are_the_kalman_filters(resampler):
    runs = 40
    found = smc_state_space(
        *LINEAR, Y.expand(runs, -1), 10_000, resampler, generator=torch.Generator().manual_seed(100)
    )
    exact, means = kalman(Y.tolist())
    error = found.log_evidence - exact
    assert abs(float(error.mean())) <= 4 * float(error.std()) / runs**0.5
    assert float(error.abs().max()) <= 4.5 * float(error.std())
    off = found.mean() - torch.tensor(means)
    assert (off.mean(0).abs() <= 4 * off.std(0) / runs**0.5).all()


def tensor_hmm(ys):
    rows, means = torch.tensor(ROWS).double(), torch.tensor(MEANS).double()
    step = lambda x, g: torch.multinomial(rows[x.flatten()], 1, generator=g).view(x.shape)  # noqa: E731
    return (
        lambda b, n, g: step(torch.randint(3, (b, n), generator=g), g),
        lambda x, t, g: step(x, g),
        lambda y, x, t: torch.distributions.Normal(means[x], 1.0).log_prob(y),
        torch.tensor(ys).double(),
    )


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_the_estimate_is_unbiased_for_any_threshold(threshold):
    ys = (0.9, 0.8, -5.0, 0.1)
    *model, y = tensor_hmm(ys)
    found = smc_state_space(*model, y.expand(4000, -1), 16, "systematic", threshold, torch.Generator().manual_seed(100))
    ratio = (found.log_evidence - math.log(sum(hmm_masses(ys).values()))).exp()
    assert abs(float(ratio.mean()) - 1) <= 4 * float(ratio.std()) / 4000**0.5


def test_tensors_and_programs_estimate_with_the_same_spread():
    ys = (0.9, 0.8, -5.0, 0.1)
    *model, y = tensor_hmm(ys)
    found = smc_state_space(*model, y.expand(3000, -1), 8, "multinomial", 1.0, torch.Generator().manual_seed(100))
    rng = np.random.default_rng(100)
    logz = np.array([run(smc(partial(hmm, ys), 8, 3), rng).value.log_evidence for _ in range(600)])
    ours = found.log_evidence.numpy()
    se = math.hypot(ours.std() / 3000**0.5, logz.std() / 600**0.5)
    assert abs(ours.mean() - logz.mean()) < 4 * se
    assert 0.7 < ours.std() / logz.std() < 1.4
    assert abs(importance(partial(hmm, ys), 3000, rng).log_evidence - math.log(sum(hmm_masses(ys).values()))) < 0.5


def test_parts_of_the_result_agree_with_one_another():
    y = torch.stack([Y, -Y])
    found = smc_state_space(*LINEAR, y, 300, generator=torch.Generator().manual_seed(100))
    assert torch.allclose(found.increments.sum(1), found.log_evidence)
    assert torch.allclose(torch.logsumexp(found.logw, -1), found.increments.cumsum(1))
    assert torch.allclose(found.weights.sum(-1), torch.ones(2, 6).double())
    assert ((found.ess > 0) & (found.ess <= 300 + 1e-6)).all()
    assert (found.ancestors[:, 0] == torch.arange(300)).all()
    resampled = (found.ancestors[:, 1:] != torch.arange(300)).any(-1)
    assert torch.equal(resampled, found.ess[:, :-1] < 150)
    paths = found.paths()
    assert torch.equal(paths[:, -1], found.particles[:, -1])
    for b in range(2):
        for i in (0, 150, 299):
            at = i
            for t in reversed(range(6)):
                assert paths[b, t, i] == found.particles[b, t, at]
                at = int(found.ancestors[b, t, at])


def test_storing_the_last_step_alone_changes_nothing_else():
    runs = [
        smc_state_space(*LINEAR, Y[None], 100, generator=torch.Generator().manual_seed(5), store=store)
        for store in (True, False)
    ]
    assert torch.equal(runs[0].log_evidence, runs[1].log_evidence)
    assert torch.equal(runs[0].particles[:, -1:], runs[1].particles)
    assert runs[1].logw.shape == (1, 1, 100)
    with pytest.raises(ValueError, match="store=True"):
        runs[1].paths()


def test_states_and_observations_of_several_dimensions():
    model = (
        lambda b, n, g: noise((b, n, 2), g),
        lambda x, t, g: A * x + Q * noise(x.shape, g),
        lambda y, x, t: torch.distributions.Normal(x, R).log_prob(y).sum(-1),
    )
    y = torch.stack([Y, -0.5 * Y], -1)
    found = smc_state_space(*model, y.expand(20, -1, -1), 4000, generator=torch.Generator().manual_seed(100))
    exact = kalman(Y.tolist())[0] + kalman((-0.5 * Y).tolist())[0]
    error = found.log_evidence - exact
    assert abs(float(error.mean())) <= 4 * float(error.std()) / 20**0.5 + 1e-3
    assert found.mean().shape == (20, 6, 2)
    assert found.paths().shape == (20, 6, 4000, 2)


def test_a_sequence_that_nothing_explains_has_no_evidence_and_does_not_touch_the_others():
    def loglik(y, x, t):
        out = torch.distributions.Normal(x, R).log_prob(y)
        return torch.where(y.expand_as(out) > 1e5, -math.inf, out)

    y = torch.stack([Y, Y, Y])
    y[1, 2] = 1e6
    found = smc_state_space(*LINEAR[:2], loglik, y, 200, generator=torch.Generator().manual_seed(100))
    assert found.log_evidence[1] == -math.inf
    assert torch.isfinite(found.log_evidence[[0, 2]]).all()
    assert (found.logw[1, 2:] == -math.inf).all()
    assert (found.weights[1, 2:] == 0).all()
    for part in (found.log_evidence, found.increments, found.logw, found.weights, found.ess, found.mean()):
        assert not part.isnan().any()


def test_one_particle_and_the_same_seed():
    one = smc_state_space(*LINEAR, Y[None], 1, generator=torch.Generator().manual_seed(3))
    two = smc_state_space(*LINEAR, Y[None], 1, generator=torch.Generator().manual_seed(3))
    assert torch.equal(one.log_evidence, two.log_evidence)
    assert one.particles.shape == (1, 6, 1)


@pytest.mark.parametrize(
    ("message", "change"),
    [
        ("number of particles must be in", {"n": 0}),
        ("resampler must be one of", {"resampler": "best"}),
        ("ess_threshold must be in", {"ess_threshold": -0.1}),
        ("obs must be a tensor", {"obs": Y}),
        ("obs must be a tensor", {"obs": Y[None, :0]}),
        ("obs must be a tensor", {"obs": [1.0]}),
        ("init must return states of shape", {"init": lambda b, n, g: noise((n,), g)}),
        ("transition must return states of shape", {"transition": lambda x, t, g: x[:, :-1]}),
        (r"broadcast to \(1, 10\), got \(1, 10, 2\)", {"loglik": lambda y, x, t: torch.zeros(1, 10, 2)}),
        ("broadcast to", {"loglik": lambda y, x, t: torch.zeros(1, 7)}),
        ("not NaN, got such a value at step 2", {"loglik": lambda y, x, t: x * 0 + (math.nan if t == 2 else 0)}),
        ("below \\+inf", {"loglik": lambda y, x, t: x * 0 + math.inf}),
    ],
)
def test_what_is_refused(message, change):
    arguments = dict(zip(("init", "transition", "loglik"), LINEAR)) | {"obs": Y[None], "n": 10} | change
    with pytest.raises(ValueError, match=message):
        smc_state_space(**arguments)
