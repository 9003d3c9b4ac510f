from __future__ import annotations

import pytest
import torch

from holdfast.core.random import generator
from holdfast.distribution.generators.categorical import CategoricalGenerator


def test_loss_is_the_mean_negative_log_likelihood_of_the_law():
    model = CategoricalGenerator(4, 2)
    z = torch.randn(3, 2, generator=generator(100))
    x = torch.randint(4, (3, 10, 1), generator=generator(101)).float()
    p = model.probabilities(z)
    expected = -torch.stack([p[i, x[i, :, 0].long()].log().mean() for i in range(3)]).mean()
    torch.testing.assert_close(model.loss(x, z), expected)


def test_sampled_shares_are_the_probabilities_within_four_standard_errors():
    model = CategoricalGenerator(4, 2)
    z, n = torch.randn(2, 2, generator=generator(100)), 20_000
    x = model.sample(z, n, generator(101)).squeeze(-1).long()
    p = model.probabilities(z).detach()
    shares = torch.nn.functional.one_hot(x, 4).float().mean(1)
    assert bool(((shares - p).abs() < 4 * (p * (1 - p) / n).sqrt()).all())


def test_points_that_are_no_counts_are_refused():
    model = CategoricalGenerator(4, 2)
    for bad in (0.5, 4.0, -1.0):
        with pytest.raises(ValueError, match="whole numbers from 0 to 3"):
            model.loss(torch.full((1, 2, 1), bad), torch.zeros(1, 2))
