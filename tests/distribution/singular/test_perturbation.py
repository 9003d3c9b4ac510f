from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from holdfast.distribution.singular import PerturbedData, data_scale, make_space_curve, perturb

SIGMA = 0.3


@pytest.mark.parametrize("mode", ["fresh", "fixed"])
def test_noise_adds_its_variance_to_every_coordinate_and_no_correlation(mode):
    n, d = 20_000, 4
    x = make_space_curve(n, d, seed=100).double()
    e = PerturbedData(x, SIGMA, mode, seed=100)[:] - x
    for law, moment in ((e, "noise"), (x, "product")):
        s = e.T @ law / n
        want = SIGMA**2 * torch.eye(d, dtype=torch.float64) if moment == "noise" else torch.zeros(d, d)
        # The standard error of each entry, from the products themselves.
        error = (e[:, :, None] * law[:, None]).std(0) / n**0.5
        assert bool(((s - want).abs() < 4 * error).all())


def test_no_noise_is_the_identity_bit_for_bit():
    x = make_space_curve(50, seed=100)
    for mode in ("fresh", "fixed"):
        assert torch.equal(PerturbedData(x, 0.0, mode)[:], x)
    assert perturb(x, 0.0) is x


def test_fixed_noise_belongs_to_the_row_and_fresh_noise_to_the_reading():
    x = make_space_curve(50, seed=100)
    fixed, fresh = (PerturbedData(x, SIGMA, mode, seed=100) for mode in ("fixed", "fresh"))
    rows = torch.tensor([7, 3, 7])
    assert torch.equal(fixed[rows], fixed[:][rows])
    assert torch.equal(fixed[7], fixed[rows][2])
    assert not torch.equal(fresh[rows], fresh[rows])
    assert torch.equal(PerturbedData(x, SIGMA, "fixed", seed=100)[:], fixed[:])
    assert not torch.equal(PerturbedData(x, SIGMA, "fixed", seed=101)[:], fixed[:])


def test_a_data_set_of_pairs_keeps_its_labels_and_runs_in_a_loader():
    x, y = torch.zeros(6, 2), torch.arange(6)
    data = PerturbedData(TensorDataset(x, y), SIGMA, "fixed", seed=100)
    (a, labels), (b, _) = (next(iter(DataLoader(data, batch_size=6))) for _ in range(2))
    assert labels.tolist() == list(range(6))
    assert torch.equal(a, b)
    assert len(a.unique(dim=0)) == 6


def test_the_scale_is_one_number_that_follows_the_units():
    x = make_space_curve(200, seed=100)
    assert data_scale(5 * x + 3) == pytest.approx(5 * data_scale(x), rel=1e-5)
    # Columns that say nothing change nothing, and are divided by nothing.
    assert data_scale(torch.cat([x, torch.ones(200, 90)], dim=1)) == pytest.approx(data_scale(x), rel=1e-6)
    q = torch.linalg.qr(torch.randn(10, 10)).Q
    assert data_scale(x @ q) == pytest.approx(data_scale(x), rel=1e-5)
    # Fewer points than coordinates take another way to the same number.
    assert data_scale(x.T.repeat(1, 2)) == pytest.approx(
        float(np.linalg.norm(np.asarray(x.T.repeat(1, 2)) - np.asarray(x.T.repeat(1, 2)).mean(0), 2)) / 10**0.5,
        rel=1e-5,
    )


def test_bad_data_are_refused():
    x = torch.zeros(4, 2)
    with pytest.raises(ValueError, match=r"sigma must be in \[0, inf\), got -0.1"):
        PerturbedData(x, -0.1)
    with pytest.raises(ValueError, match="mode must be one of 'fresh', 'fixed'"):
        PerturbedData(x, 0.1, "frozen")
    with pytest.raises(TypeError, match="noise on codes means nothing"):
        PerturbedData(np.zeros((4, 2), dtype=int), 0.1)
    with pytest.raises(ValueError, match="the points must be finite, but row 1 holds nan"):
        PerturbedData(torch.tensor([[0.0], [float("nan")]]), 0.1)
    with pytest.raises(TypeError, match="must be points or have len"):
        PerturbedData(3.0, 0.1)
