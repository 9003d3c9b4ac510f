"""Laws of label noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from holdfast.data.shifts import (
    instance_dependent_label_noise,
    next_class_noise,
    pairwise_label_noise,
    uniform_label_noise,
)

N = 40_000


def labels(k: int = 4) -> np.ndarray:
    return np.arange(N) % k


def within(share: float, expected: float, n: int = N) -> bool:
    return abs(share - expected) <= 5 * np.sqrt(expected * (1 - expected) / n) + 1e-12


def every_noise(y, rate: float, **random):
    x = np.random.default_rng(102).standard_normal((len(y), 3))
    return [
        uniform_label_noise(y, rate, 4, **random),
        uniform_label_noise(y, rate, 4, include_true=False, **random),
        pairwise_label_noise(y, rate, {0: 1, 3: 2}, 4, **random),
        next_class_noise(y, rate, 4, **random),
        instance_dependent_label_noise(x, y, rate, 4, **random),
    ]


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.7, 1.0])
def test_realised_rate(rate):
    y = labels()
    assert within((uniform_label_noise(y, rate, 4, seed=100) != y).mean(), rate * 3 / 4)
    assert within((uniform_label_noise(y, rate, 4, seed=100, include_true=False) != y).mean(), rate)
    assert within((next_class_noise(y, rate, 4, seed=100) != y).mean(), rate)


def test_uniform_noise_has_the_transition_matrix_it_should():
    y, k, rate = labels(), 4, 0.6
    table = np.zeros((k, k))
    np.add.at(table, (y, uniform_label_noise(y, rate, k, seed=100)), 1)
    expected = (1 - rate) * np.eye(k) + rate / k
    assert np.abs(table * k / N - expected).max() < 5 * np.sqrt(0.25 * k / N)


def test_pairwise_noise_touches_the_named_classes_alone():
    y = labels()
    out = pairwise_label_noise(y, 0.4, {0: 1, 3: 2}, seed=100)
    assert within((out[y == 0] == 1).mean(), 0.4, N // 4)
    assert within((out[y == 3] == 2).mean(), 0.4, N // 4)
    np.testing.assert_array_equal(out[(y == 1) | (y == 2)], y[(y == 1) | (y == 2)])
    assert set(out[y == 0]) == {0, 1}


def test_next_class_noise_goes_to_the_next_class_alone():
    y = labels()
    assert set(((next_class_noise(y, 0.5, 4, seed=100) - y) % 4).tolist()) == {0, 1}


@pytest.mark.parametrize("rate", [0.3, 0.5])
def test_instance_dependent_noise_has_its_mean_rate(rate):
    x, y = np.random.default_rng(100).standard_normal((N, 5)), labels()
    out = instance_dependent_label_noise(x, y, rate, 4, seed=100)
    # The rate of a sample is cut to [0, 1], at least three spreads away: bias below 0.001.
    assert abs((out != y).mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / N) + 0.001


def test_instance_dependent_noise_goes_where_the_input_points():
    rng = np.random.default_rng(100)
    x, y = rng.standard_normal((N, 5)), np.zeros(N, int)
    out = instance_dependent_label_noise(x, y, 0.5, 3, seed=100)
    wrong = out != 0
    # The log odds of the two wrong classes are linear in x: some direction separates them far beyond chance.
    gap = x[wrong & (out == 1)].mean(axis=0) - x[wrong & (out == 2)].mean(axis=0)
    assert np.linalg.norm(gap) > 0.5
    # Uniform noise of the same rate has no such direction.
    flat = uniform_label_noise(y, 0.5, 3, seed=100, include_true=False)
    chance = x[flat == 1].mean(axis=0) - x[flat == 2].mean(axis=0)
    assert np.linalg.norm(chance) < 0.1


def test_units_of_the_input_do_not_change_instance_dependent_noise():
    x, y = np.random.default_rng(100).standard_normal((500, 3)), np.arange(500) % 3
    a = instance_dependent_label_noise(x, y, 0.4, 3, seed=100)
    b = instance_dependent_label_noise(8 * x, y, 0.4, 3, seed=100)
    assert (a == b).mean() > 0.99


def test_rate_zero_is_the_identity_and_the_input_is_left_alone():
    y = labels()[:1000]
    before = y.copy()
    for out in every_noise(y, 0.0, seed=100):
        np.testing.assert_array_equal(out, before)
        assert not np.shares_memory(out, y)
    every_noise(y, 0.9, seed=100)
    np.testing.assert_array_equal(y, before)


def test_same_seed_same_bits_and_another_seed_another_draw():
    y = labels()[:2000]
    for a, b, c in zip(*(every_noise(y, 0.5, seed=s) for s in (100, 100, 101))):
        np.testing.assert_array_equal(a, b)
        assert (a != c).any()


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_tensors_and_arrays_agree_and_keep_their_type(dtype):
    y = torch.from_numpy(labels()[:500]).to(dtype)
    for t, a in zip(every_noise(y, 0.5, seed=100), every_noise(y.numpy(), 0.5, seed=100)):
        assert t.dtype == dtype
        assert a.dtype == y.numpy().dtype
        np.testing.assert_array_equal(t.numpy(), a)


def test_a_generator_is_advanced():
    y = labels()[:500]
    g, h = (torch.Generator().manual_seed(100) for _ in range(2))
    a, b = (uniform_label_noise(y, 0.5, 4, generator=g) for _ in range(2))
    assert (a != b).any()
    np.testing.assert_array_equal(a, uniform_label_noise(y, 0.5, 4, generator=h))


def test_inputs_drawn_from_the_same_seed_are_independent_of_the_noise():
    u = torch.rand(N, dtype=torch.float64, generator=torch.Generator().manual_seed(100)).numpy()
    wrong = uniform_label_noise(labels(), 0.5, 4, seed=100, include_true=False) != labels()
    assert abs(np.corrcoef(u, wrong)[0, 1]) < 5 / np.sqrt(N)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda y: uniform_label_noise(y, 1.5, 4, seed=1), ValueError, "rate must be in"),
        (lambda y: uniform_label_noise(y, 0.5, 4), ValueError, "exactly one of seed and generator"),
        (lambda y: uniform_label_noise(y, 0.5, 2, seed=1), ValueError, r"y must lie in \[0, 2\)"),
        (lambda y: uniform_label_noise(y / 2, 0.5, 4, seed=1), TypeError, "integer class indices"),
        (lambda y: pairwise_label_noise(y, 0.5, {}, 4, seed=1), ValueError, "at least one class"),
        (lambda y: pairwise_label_noise(y, 0.5, {0: 7}, 4, seed=1), ValueError, r"pairs must lie in \[0, 4\)"),
        (lambda y: instance_dependent_label_noise(np.zeros((3, 1)), y, 0.5, 4, seed=1), ValueError, "lengths differ"),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(labels()[:8])
