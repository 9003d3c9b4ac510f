import pytest
import torch

from holdfast.core.random import generator
from holdfast.diffusion.binary import BinarySchedule

KINDS = ("linear", "cosine", "sigmoid")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [1, 7, 256])
def test_the_process_runs_from_data_to_fair_coins(kind, steps):
    k = BinarySchedule(steps, kind).k
    assert len(k) == steps + 1
    torch.testing.assert_close(k[[0, -1]], torch.tensor([1.0, 0.0], dtype=torch.float64), atol=1e-6, rtol=0)
    assert bool((k.diff() < 0).all())


def test_closed_forms():
    u = torch.arange(65, dtype=torch.float64) / 64
    torch.testing.assert_close(BinarySchedule(64).k, 1 - u)
    torch.testing.assert_close(BinarySchedule(64, "cosine").k, torch.cos(torch.pi * u / 2).square(), atol=1e-12, rtol=0)
    s = 1 / (1 + torch.exp(-3 * u / 0.8))
    torch.testing.assert_close(BinarySchedule(64, "sigmoid").k, (s[-1] - s) / (s[-1] - s[0]))
    beta = BinarySchedule(64).beta(torch.arange(1, 65))
    torch.testing.assert_close(1 - beta, (64 - torch.arange(1, 65).double()) / (65 - torch.arange(1, 65)))


@pytest.mark.parametrize("kind", KINDS)
def test_one_steps_compose_to_the_marginal(kind):
    schedule = BinarySchedule(12, kind)
    p = z0 = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    for t in range(1, 13):
        beta = float(schedule.beta(t))
        p = (1 - beta) * p + beta / 2
        torch.testing.assert_close(schedule.marginal(z0, t), p, atol=1e-6, rtol=0)


def test_draws_have_the_marginals_frequencies():
    schedule, n = BinarySchedule(10, "cosine"), 20_000
    z0 = torch.tensor([[0.0, 1.0]]).expand(n, 2)
    for t in (1, 4, 10):
        p = schedule.marginal(z0[:1].double(), t)[0]
        got = schedule.q_sample(z0, t, generator=generator(t)).double().mean(0)
        assert bool(((got - p).abs() < 4 * (p * (1 - p) / n).sqrt()).all())


def test_single_steps_have_their_frequencies():
    schedule, n = BinarySchedule(10), 20_000
    z = torch.tensor([[0.0, 1.0]]).expand(n, 2)
    beta = float(schedule.beta(3))
    p = torch.tensor([beta / 2, 1 - beta / 2], dtype=torch.float64)
    got = schedule.one_step(z, 3, generator=generator(0)).double().mean(0)
    assert bool(((got - p).abs() < 4 * (p * (1 - p) / n).sqrt()).all())


def test_times_may_differ_within_a_batch():
    schedule, z0 = BinarySchedule(8), torch.tensor([[1.0, 0.0]]).expand(3, 2)
    t = torch.tensor([1, 4, 8])
    each = torch.cat([schedule.marginal(z0[:1], int(i)) for i in t])
    torch.testing.assert_close(schedule.marginal(z0, t), each)
    z, p0, s = z0.round(), torch.rand(3, 2, dtype=torch.float64), torch.tensor([0, 2, 5])
    for kind in ("mixture", "plug_in"):
        got = schedule.posterior(z, p0, t, s, kind)
        one = [schedule.posterior(z[i : i + 1], p0[i : i + 1], int(t[i]), int(s[i]), kind) for i in range(3)]
        torch.testing.assert_close(got, torch.cat(one))


@pytest.mark.parametrize("kind", KINDS)
def test_posteriors_of_certain_bits_are_bayes_rule_and_agree(kind):
    schedule = BinarySchedule(9, kind)
    z0, z_t = torch.meshgrid(torch.arange(2.0), torch.arange(2.0), indexing="ij")
    z0, z_t = z0.reshape(-1, 1).double(), z_t.reshape(-1, 1).double()
    for t, s in ((9, 4), (5, 4), (3, 1), (9, 8)):
        kappa = schedule.k[t] / schedule.k[s]
        prior = schedule.marginal(z0, s)
        like1 = torch.where(z_t == 1, (1 + kappa) / 2, (1 - kappa) / 2)
        want = prior * like1 / (prior * like1 + (1 - prior) * (1 - like1))
        for posterior in ("mixture", "plug_in"):
            torch.testing.assert_close(schedule.posterior(z_t, z0, t, s, posterior), want, atol=1e-12, rtol=0)


def test_the_step_to_the_data_gives_the_probability_of_the_data():
    schedule, p0 = BinarySchedule(9), torch.rand(4, 3, dtype=torch.float64, generator=generator(0))
    z = (torch.rand(4, 3, generator=generator(1)) < 0.5).float()
    for kind in ("mixture", "plug_in"):
        torch.testing.assert_close(schedule.posterior(z, p0, 5, 0, kind), p0, atol=1e-12, rtol=0)


def test_grid_runs_from_the_noisiest_time_to_the_first_without_repeats():
    schedule = BinarySchedule(64)
    assert schedule.grid(64) == list(range(64, 0, -1))
    assert schedule.grid(1) == [64]
    for n in (2, 3, 16, 63):
        times = schedule.grid(n)
        assert len(set(times)) == n
        assert (times[0], times[-1]) == (64, 1)
        assert times == sorted(times, reverse=True)


Z = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda s: s.q_sample(torch.full((2, 3), 0.5), 1), "z0 must hold bits, 0 or 1, but holds 0.5"),
        (lambda s: s.q_sample(2 * Z - 1, 1), "holds -1"),
        (lambda s: s.one_step(Z + 2, 1), "holds 2"),
        (lambda s: s.q_sample(Z, 0), r"t must lie in 1\.\.8, got 0"),
        (lambda s: s.q_sample(Z, 9), r"t must lie in 1\.\.8, got 9"),
        (lambda s: s.q_sample(Z, torch.tensor([1, 9])), r"t must lie in 1\.\.8, got 9"),
        (lambda s: s.q_sample(Z, torch.tensor([1.0, 2.0])), "whole numbers, one per sample"),
        (lambda s: s.q_sample(Z, torch.tensor([1, 2, 3])), r"one per sample, \(2,\)"),
        (lambda s: s.posterior(Z, Z, 3, 3), "s must be earlier than t, got s=3 and t=3"),
        (lambda s: s.posterior(Z, Z, torch.tensor([3, 3]), torch.tensor([2, 4])), r"got s=\[2, 4\] and t=\[3, 3\]"),
        (lambda s: s.posterior(Z, Z, 3, 1, "bayes"), "kind must be one of 'mixture', 'plug_in'"),
        (lambda s: s.grid(9), "a schedule of 8 steps cannot be sampled with 9"),
        (lambda s: BinarySchedule(8, "square"), "kind must be one of 'linear', 'cosine', 'sigmoid'"),
        (lambda s: BinarySchedule(0), "steps must be in"),
        (lambda s: BinarySchedule(2, torch.tensor([1.0, 0.5])), "needs 3 values"),
        (lambda s: BinarySchedule(3, torch.tensor([1.0, 0.4, 0.5, 0.0])), "from 0.4 to 0.5 at t = 2"),
        (lambda s: BinarySchedule(2, torch.tensor([1.0, 0.5, 0.1])), "from 1 to 0, got 1 to 0.1"),
    ],
)
def test_bad_input_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call(BinarySchedule(8))
