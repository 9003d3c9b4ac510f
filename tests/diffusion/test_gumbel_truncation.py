import math

import pytest
import torch

from holdfast.diffusion.draws import uniform_open
from holdfast.diffusion.gumbel_truncation import gumbel_ceiling, truncated_gumbel_probs


def _pi(k, seed=100):
    return torch.rand(k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).square().softmax(0)


@pytest.mark.parametrize("ceiling", [0.1, 1.0, 5.0, 16.6355, 36.7])
def test_is_a_law_that_favours_the_probable(ceiling):
    pi = _pi(50)[torch.randperm(50, generator=torch.Generator().manual_seed(1))]
    new = truncated_gumbel_probs(pi, ceiling)
    assert float(new.sum()) == pytest.approx(1, abs=1e-10)
    ratio = (new / pi)[pi.argsort()]
    assert bool((ratio.diff() >= -1e-12).all())


def test_a_high_ceiling_changes_nothing():
    zipf = 1 / torch.arange(1, 1001, dtype=torch.float64)
    for pi in (_pi(7), zipf / zipf.sum()):
        torch.testing.assert_close(truncated_gumbel_probs(pi, 36.0), pi, rtol=0, atol=1e-9)


@pytest.mark.parametrize("ceiling", [0.01, 0.5, 3.0, 20.0])
def test_the_uniform_law_is_a_fixed_point(ceiling):
    for k in (1, 2, 37, 5000):
        pi = torch.full((k,), 1 / k, dtype=torch.float64)
        torch.testing.assert_close(truncated_gumbel_probs(pi, ceiling), pi, rtol=0, atol=1e-12)


def test_equals_simulation_of_conditioned_noise():
    pi, ceiling, n = torch.tensor([0.02, 0.08, 0.2, 0.3, 0.4], dtype=torch.float64), 2.0, 1_000_000
    # A Gumbel number below M is -log(-log(u)) with u below exp(-exp(-M)).
    u = uniform_open((n, 5), generator=torch.Generator().manual_seed(100)) * math.exp(-math.exp(-ceiling))
    drawn = (pi.log() - (-u.log()).log()).argmax(1)
    found = torch.bincount(drawn, minlength=5) / n
    new = truncated_gumbel_probs(pi, ceiling)
    assert bool(((found - new).abs() < 4 * (new * (1 - new) / n).sqrt()).all())
    assert bool(((found - pi).abs() > 4 * (new * (1 - new) / n).sqrt()).any())


def test_zeros_stay_zero_and_do_not_move_the_others():
    pi = _pi(6)
    padded = torch.zeros(9, dtype=torch.float64)
    padded[[7, 2, 3, 0, 8, 5]] = pi
    new = truncated_gumbel_probs(padded, 1.5)
    torch.testing.assert_close(new[[7, 2, 3, 0, 8, 5]], truncated_gumbel_probs(pi, 1.5))
    assert float(new[[1, 4, 6]].sum()) == 0


def test_two_entries_have_a_closed_form():
    # E = exp(-g) is an exponential clock that starts at c = exp(-M). The rare entry wins when the other's clock shows
    # more than (1 - r)/r times its own: e^{2c} int_c^inf exp(-e - e (1 - r)/r) de = r exp(2c - c/r).
    for ceiling, rare in ((3.0, 1e-2), (16.6355, 1e-7), (36.7, 0.3)):
        c = math.exp(-ceiling)
        new = truncated_gumbel_probs(torch.tensor([1 - rare, rare], dtype=torch.float64), ceiling)
        assert float(new[1]) == pytest.approx(rare * math.exp(2 * c - c / rare), rel=1e-9)


def test_ceilings_of_the_float_types():
    assert gumbel_ceiling(torch.float32) == pytest.approx(24 * math.log(2), abs=1e-6)
    assert gumbel_ceiling(torch.float64) == pytest.approx(53 * math.log(2), abs=1e-6)
    assert gumbel_ceiling(8) == gumbel_ceiling(torch.bfloat16)
    u = uniform_open((10_000_000,), dtype=torch.float32, generator=torch.Generator().manual_seed(100))
    assert float(-(-u.max().double().log()).log()) <= 16.6356
    largest = torch.tensor(1 - 2.0**-24)
    assert float(-(-largest.log()).log()) == pytest.approx(gumbel_ceiling(24), abs=1e-5)


@pytest.mark.parametrize(
    ("pi", "ceiling", "words"),
    [
        ([0.5, 0.4], 2.0, "must sum to 1 within 1e-4, got 0.9"),
        ([0.5, 0.5], 0.0, "ceiling must be in"),
        ([1.5, -0.5], 2.0, "non-negative"),
        ([math.nan, 1.0], 2.0, "finite"),
        ([], 2.0, "shape"),
    ],
)
def test_what_is_no_law_is_refused(pi, ceiling, words):
    with pytest.raises(ValueError, match=words):
        truncated_gumbel_probs(torch.tensor(pi), ceiling)
