import math

import torch

from holdfast.diffusion.masked import AncestralMaskedSampler, TwoStageMaskedSampler
from holdfast.papers import p49_masked_diffusion as p49
from holdfast.papers.p49_masked_diffusion import PAPER


def test_smoke_run_measures_every_claim_and_control_with_the_same_bits_twice():
    first, second = PAPER.experiment("smoke", 100), PAPER.experiment("smoke", 100)
    timed = {k for k in first if k.endswith("seconds")}
    assert timed == {f"{name}/cost_seconds" for name in ("fhs", "ancestral", "two-stage")}
    assert {k: v for k, v in first.items() if k not in timed} == {k: v for k, v in second.items() if k not in timed}
    assert all(math.isfinite(claim.statistic(first)) for claim in PAPER.claims)
    for control in ("chain/tv", "independent/tv", "ancestral/tv", "untrained/excess", "uniform/excess"):
        assert control in first


def test_controls_stand_where_they_must():
    values = PAPER.experiment("smoke", 101)
    assert values["chain/chi2_p"] > 1e-3
    assert values["independent/chi2_p"] < 1e-3
    assert values["independent/tv"] > 5 * values["fhs/tv"]
    assert values["untrained/excess"] > values["time-free/excess"] - 0.1
    assert abs(values["uniform/excess"] - (math.log(8) - p49._CHAIN.entropy(8) / 8)) < 1e-9


def test_calls_and_draws_of_the_costs_are_what_the_algorithms_make():
    out = p49._cost(p49._SMOKE, 100)
    assert out["fhs/cost_calls"] == out["fhs/cost_draws"] == 64
    assert out["ancestral/cost_calls"] <= 64
    assert out["ancestral/cost_draws"] > 20 * 64


def test_plays_are_read_trained_on_and_sampled(monkeypatch):
    text = torch.randint(0, 5, (40, 16), generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr("holdfast.papers._shakespeare.characters", lambda length: (text[:30], text[30:], list("abcde")))
    out = p49._shakespeare(100, width=12, depth=1, steps=2, batch=8, n=4, ancestral=(8,), length=16)
    for name in ("held-out", "shuffled", "untrained", "fhs", "ancestral@8-float32", "ancestral@8-float64"):
        assert out[f"plays-{name}/perplexity"] > 1
        assert 0 < out[f"plays-{name}/entropy"] <= math.log(5)


def test_the_cheap_float64_arm_has_the_law_of_the_joint_sampler():
    pi = p49._zipf(6)
    counts = []
    for sampler in (AncestralMaskedSampler(16), TwoStageMaskedSampler(16)):
        g = torch.Generator().manual_seed(100)
        x = sampler.sample(lambda tokens, t=None: pi.log().expand(*tokens.shape, -1), 20_000, 1, 6, g).x
        counts.append(torch.bincount(x[:, 0], minlength=6) / 20_000)
    error = (pi * (1 - pi) / 20_000).sqrt()
    for found in counts:
        assert bool(((found - pi).abs() < 4 * error).all())
