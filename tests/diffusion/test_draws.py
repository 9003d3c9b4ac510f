import math

import pytest
import torch
from scipy import stats

from holdfast.diffusion.draws import bernoulli, categorical, gumbel, gumbel_argmax, random_bits, uniform_open

PI = torch.tensor([0.5, 0.0, 0.3, 0.15, 0.05], dtype=torch.float64)


def _gen(seed=100):
    return torch.Generator().manual_seed(seed)


def _fits(drawn, pi):
    counts = torch.bincount(drawn.flatten(), minlength=len(pi)).double()
    assert not counts[pi == 0].any()
    seen = pi > 0
    return stats.chisquare(counts[seen], pi[seen] / pi[seen].sum() * counts.sum()).pvalue > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_ways_draw_from_the_given_law(dtype):
    rows = PI.expand(50_000, -1)
    assert _fits(gumbel_argmax(rows.log() + 3.0, dtype=dtype, generator=_gen()), PI)
    assert _fits(categorical(7 * rows, dtype=dtype, generator=_gen()), PI)


def test_b_bit_uniforms_are_uniform_over_the_open_grid():
    for bits, dtype in ((3, torch.float64), (3, torch.float32), (None, torch.bfloat16)):
        b = bits or 8
        u = uniform_open((200_000,), bits=bits, dtype=dtype, generator=_gen())
        k = u.double() * 2**b
        assert bool((k == k.round()).all())
        counts = torch.bincount(k.long(), minlength=2**b)
        assert int(counts[0]) == 0
        assert len(counts) == 2**b
        assert stats.chisquare(counts[1:].double()).pvalue > 1e-3


def test_a_generator_gives_the_same_numbers_again_and_full_width_numbers_are_open():
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        a, b = (uniform_open((10_000,), dtype=dtype, generator=_gen(3)) for _ in range(2))
        assert torch.equal(a, b)
        assert a.dtype == dtype
        assert 0 < float(a.min()) <= float(a.max()) <= 1 - 2.0 ** -random_bits(dtype)


def test_zeros_are_drawn_again(monkeypatch):
    real = torch.rand
    monkeypatch.setattr(torch, "rand", lambda *a, **k: (real(*a, **k) * 4).floor() / 4)
    u = uniform_open((4_000,), generator=_gen())
    assert sorted(set(u.tolist())) == [0.25, 0.5, 0.75]
    assert stats.chisquare(torch.bincount((4 * u).long(), minlength=4)[1:].double()).pvalue > 1e-3


def test_gumbel_noise_is_gumbel():
    assert stats.kstest(gumbel((20_000,), generator=_gen()).numpy(), stats.gumbel_r.cdf).pvalue > 1e-3


def test_coarse_noise_never_draws_what_its_ceiling_forbids():
    # With 4 bits the largest noise is 2.74 and the smallest -1.02: a gap of 5 in the logits is never bridged.
    logits = torch.tensor([0.0, -5.0]).expand(20_000, 2)
    assert int(gumbel_argmax(logits, bits=4, generator=_gen()).sum()) == 0
    assert int(gumbel_argmax(logits, generator=_gen()).sum()) > 0


def test_coins_have_their_probabilities_and_the_ends_are_exact():
    p = torch.tensor([0.0, 0.2, 0.7, 1.0])
    counts = bernoulli(p.expand(40_000, 4), generator=_gen()).sum(0)
    assert counts[0] == 0
    assert counts[3] == 40_000
    for i in (1, 2):
        assert stats.binomtest(int(counts[i]), 40_000, float(p[i])).pvalue > 1e-3
    coarse = bernoulli(torch.full((40_000,), 0.3), bits=2, generator=_gen()).double().mean()
    assert stats.binomtest(int(40_000 * coarse), 40_000, 0.5).pvalue > 1e-3


@pytest.mark.parametrize("bad", [[math.nan, 0.0], [-math.inf, -math.inf], [math.inf, 0.0]])
def test_logits_without_a_law_are_refused(bad):
    with pytest.raises(ValueError, match=r"row 1 is"):
        gumbel_argmax(torch.tensor([[0.0, 0.0], bad]))


@pytest.mark.parametrize(
    ("bad", "words"),
    [([0.0, 0.0], "row 0"), ([math.nan, 1.0], "row 0"), ([-0.1, 1.0], "non-negative"), ([math.inf, 1.0], "row 0")],
)
def test_probabilities_without_a_law_are_refused(bad, words):
    with pytest.raises(ValueError, match=words):
        categorical(torch.tensor([bad]))


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match="bits must be in"):
        uniform_open((2,), bits=0)
    with pytest.raises(ValueError, match="bits must be in"):
        uniform_open((2,), bits=25, dtype=torch.float32)
    with pytest.raises(ValueError, match="dtype must be one of"):
        random_bits(torch.int64)
    for p in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"probs must lie in \[0, 1\]"):
            bernoulli(torch.tensor([0.5, p]))
