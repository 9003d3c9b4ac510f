from __future__ import annotations

import math

import pytest
import torch

from holdfast.core.grassmann import random_frame
from holdfast.core.random import generator
from holdfast.metrics import generalisation_score, match_subspaces, principal_angles, subspace_error


def frame(n: int, d: int, seed: int):
    return random_frame(n, d, generator=generator(seed), dtype=torch.float64)


def test_the_error_is_symmetric_in_0_1_and_the_root_mean_square_sine():
    for seed in range(100, 120):
        U, V = frame(9, 3, seed), frame(9, 3, seed + 50)
        error = subspace_error(U, V)
        assert 0 <= error <= 1
        assert error == pytest.approx(subspace_error(V, U), abs=1e-12)
        direct = torch.linalg.matrix_norm(U @ U.mT - V @ V.mT)
        assert error == pytest.approx(float(direct) / math.sqrt(6), abs=1e-10)
        sines = principal_angles(U, V).sin()
        assert error == pytest.approx(float((sines.square().sum() / 3).sqrt()), abs=1e-12)
        assert subspace_error(U, V, normalised=False) == pytest.approx(float(direct), abs=1e-10)


def test_the_error_is_that_of_spans_and_right_for_different_dimensions():
    U, R = frame(9, 3, 100), torch.randn(3, 3, generator=generator(101), dtype=torch.float64)
    assert subspace_error(U, U @ R) == pytest.approx(0, abs=1e-7)
    eye = torch.eye(6)
    assert subspace_error(eye[:, :3], eye[:, 3:]) == pytest.approx(1)
    wide, narrow = frame(9, 4, 102), frame(9, 2, 103)
    direct = torch.linalg.matrix_norm(wide @ wide.mT - narrow @ narrow.mT)
    assert subspace_error(wide, narrow, normalised=False) == pytest.approx(float(direct), abs=1e-10)


def test_matching_undoes_a_permutation_and_a_greedy_choice_is_beaten():
    Us = [frame(12, 3, seed) for seed in range(100, 106)]
    order = [3, 0, 5, 1, 4, 2]
    found = match_subspaces(Us, [Us[i] for i in order])
    assert [order[j] for j in found.permutation] == list(range(6))
    assert max(found.errors) < 1e-7

    def line(degrees: float):
        return torch.tensor([[math.cos(math.radians(degrees))], [math.sin(math.radians(degrees))]])

    # The nearest pair of all is (20, 21): taking it leaves 0 with 60.
    crossed = match_subspaces([line(0), line(20)], [line(21), line(60)])
    assert sum(crossed.errors) == pytest.approx(
        min(math.sin(math.radians(a)) + math.sin(math.radians(b)) for a, b in ((21, 40), (60, 1)))
    )


def test_copies_are_not_new_and_independent_directions_are():
    train = torch.randn(50, 40, generator=generator(100))
    fresh = torch.randn(30, 40, generator=generator(101))
    assert generalisation_score(3 * train[:10], train) == 0
    assert generalisation_score(fresh, train) == 1
    assert generalisation_score(torch.cat([fresh, train[:10]]), train) == pytest.approx(0.75)
    assert generalisation_score(fresh, train, feature=lambda x: torch.ones(len(x), 2)) == 0


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="bases in the same space, got 3 and 4 rows"):
        subspace_error(torch.ones(3, 1), torch.ones(4, 1))
    with pytest.raises(ValueError, match="U must be finite"):
        principal_angles(torch.full((3, 1), float("nan")), torch.ones(3, 1))
    with pytest.raises(ValueError, match="the same number of subspaces, at least 1, got 1 and 2"):
        match_subspaces([torch.ones(3, 1)], [torch.ones(3, 1)] * 2)
    with pytest.raises(ValueError, match="threshold must be in"):
        generalisation_score(torch.ones(2, 2), torch.ones(2, 2), threshold=1.5)
    with pytest.raises(ValueError, match="equally many features, got 2 and 3"):
        generalisation_score(torch.ones(2, 2), torch.ones(2, 3))
    with pytest.raises(ValueError, match="samples has no direction in row 1"):
        generalisation_score(torch.tensor([[1.0], [0.0]]), torch.ones(2, 1))
