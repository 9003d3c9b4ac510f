"""Noise by row: a pure function of its counters, and standard normal."""

from __future__ import annotations

import torch
from scipy.stats import kstest

from holdfast.diffusion.row_noise import row_noise


def test_a_row_is_the_same_in_every_batch_and_differs_from_others():
    rows = torch.arange(50)
    whole = row_noise(rows, (2, 5, 5), 7, "90.0", 0)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(row_noise(rows[order], (2, 5, 5), 7, "90.0", 0), whole[order])
    assert torch.equal(torch.cat([row_noise(part, (2, 5, 5), 7, "90.0", 0) for part in rows.split(7)]), whole)
    for other in (row_noise(rows, (2, 5, 5), 8, "90.0", 0), row_noise(rows, (2, 5, 5), 7, "90.0", 1)):
        assert not bool((other == whole).any())
    assert len(whole.flatten().unique()) == whole.numel()


def test_draws_are_standard_normal_and_independent():
    z = row_noise(torch.arange(2000), (50,), 100)
    assert kstest(z.flatten().double().numpy(), "norm").pvalue > 1e-3
    assert abs(float(z.mean())) < 4 / z.numel() ** 0.5
    # Neighbouring places, neighbouring rows, and neighbouring seeds do not know of each other.
    for a, b in ((z[:, 1:], z[:, :-1]), (z[1:], z[:-1]), (z, row_noise(torch.arange(2000), (50,), 101))):
        assert abs(float((a * b).mean())) < 4 / a.numel() ** 0.5
        assert abs(float((a.square() * b.square()).mean()) - 1) < 4 * 8**0.5 / a.numel() ** 0.5
