import math

import pytest
import torch

from holdfast.core.random import generator
from holdfast.metrics.calibration import fit_temperature
from holdfast.metrics.training_temperature import training_temperature


@pytest.mark.parametrize("n", [1, 5, 100])
def test_faultless_rows_get_the_rule_of_succession(n):
    z = torch.eye(2).repeat(n, 1)
    t = training_temperature(z, torch.arange(2 * n) % 2)
    # Two classes, equal gaps of 1: the likelihood is that of a coin with n successes and one failure.
    expected = 1 / math.log(n) if n > 1 else 100.0
    assert t == pytest.approx(expected, rel=1e-6)


def test_many_rows_with_mistakes_leave_the_plain_fit():
    g = generator(100)
    z = 3 * torch.randn(20_000, 4, generator=g)
    y = torch.multinomial((z / 1.7).softmax(1), 1, generator=g)[:, 0]
    assert training_temperature(z, y) == pytest.approx(fit_temperature(z, y), rel=1e-2)
    assert training_temperature(z, y) == pytest.approx(1.7, rel=0.05)


def test_it_scales_with_the_logits_and_is_never_certain():
    g = generator(100)
    z, y = torch.randn(50, 3, generator=g), torch.arange(50) % 3
    z[torch.arange(50), y] += 6
    assert training_temperature(4 * z, y) == pytest.approx(4 * training_temperature(z, y), rel=1e-6)
    assert training_temperature(z, y) > 10 * fit_temperature(z, y)


@pytest.mark.parametrize(
    ("match", "z", "y"),
    [
        ("2 columns", torch.zeros(3, 1), torch.zeros(3)),
        ("shape", torch.zeros(3, 2), torch.zeros(2)),
        ("finite", torch.full((3, 2), math.nan), torch.zeros(3)),
    ],
)
def test_bad_input_is_refused_by_name(match, z, y):
    with pytest.raises(ValueError, match=match):
        training_temperature(z, y.long())
