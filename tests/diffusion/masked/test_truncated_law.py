import pytest
import torch

from holdfast.diffusion.gumbel_truncation import gumbel_ceiling
from holdfast.diffusion.masked import AncestralMaskedSampler, CosineMask, truncated_ancestral_law


def _zipf(k):
    pi = 1 / torch.arange(1, k + 1, dtype=torch.float64)
    return pi / pi.sum()


def _entropy(p):
    return float(torch.special.entr(p).sum())


def test_is_a_law_that_is_the_model_s_where_the_noise_is_fine():
    pi = _zipf(200)
    law = truncated_ancestral_law(pi, 64, gumbel_ceiling(torch.float64))
    torch.testing.assert_close(law, pi, rtol=1e-6, atol=0)
    coarse = truncated_ancestral_law(pi, 64, 6.0, CosineMask())
    assert float(coarse.sum()) == pytest.approx(1)


def test_more_steps_lower_the_entropy():
    entropies = [_entropy(truncated_ancestral_law(_zipf(200), n, 10.0)) for n in (1, 16, 64, 256)]
    assert entropies == sorted(entropies, reverse=True)
    assert entropies[-1] < entropies[0] - 0.1


def test_the_sampler_draws_from_it_with_coarse_noise():
    pi, steps = _zipf(12), 32
    sampler = AncestralMaskedSampler(steps, draw_dtype=torch.float32)
    logits = pi.log().float()
    g = torch.Generator().manual_seed(100)
    x = sampler.sample(lambda tokens, t=None: logits.expand(*tokens.shape, -1), 1, 20_000, 12, g).x[0]
    found = torch.bincount(x, minlength=12) / len(x)
    law = truncated_ancestral_law(pi, steps, gumbel_ceiling(torch.float32))
    assert bool(((found - law).abs() < 4 * (law * (1 - law) / len(x)).sqrt()).all())
