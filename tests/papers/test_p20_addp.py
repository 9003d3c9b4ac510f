from __future__ import annotations

import math

import pytest
import torch

from holdfast.papers import _alternating as alternating
from holdfast.papers.p20_addp import PAPER


@pytest.fixture(scope="module")
def values():
    return PAPER.experiment("smoke", 100)


def test_smoke_run_measures_every_claim_and_every_control(values):
    assert all(math.isfinite(claim.statistic(values)) for claim in PAPER.claims)
    for row in ("addp", "no-tokens", "hard", "mage", "untrained-mage", "mae", "untrained", "raw-pixels"):
        assert f"{row}/probe" in values
        assert f"{row}/probe_few" in values
    for row in ("addp", "no-tokens", "hard", "mage", "marginals", "uniform-tokens", "reconstructions", "real"):
        assert f"{row}/fd" in values
    for row in ("addp", "mae", "mage", "untrained"):
        assert f"{row}/fine_tuned" in values
    for row in ("addp", "mae", "mage", "raw-pixels"):
        assert {f"{row}/loss_elastic", f"{row}/loss_noise"} <= values.keys()


def test_controls_stand_where_they_must(values):
    assert 1 <= values["tokens/perplexity"] <= 64
    assert values["real/fd"] < min(values["reconstructions/fd"], values["uniform-tokens/fd"])
    assert 0 < values["tokens/mse"] < 0.2
    assert values["raw-pixels/probe"] > 0.5


def test_marginal_tokens_keep_each_positions_frequencies_and_break_what_joins_them():
    first = torch.randint(4, (2000, 1), generator=torch.Generator().manual_seed(0))
    ids = torch.cat([first, first], dim=1)
    drawn = alternating.marginal_tokens(ids, 20_000, seed=1)
    for position in range(2):
        ours, theirs = (torch.bincount(t[:, position], minlength=4).double() / len(t) for t in (drawn, ids))
        assert float((ours - theirs).abs().max()) < 0.02
    assert abs(float((drawn[:, 0] == drawn[:, 1]).double().mean()) - 0.25) < 0.03


def test_networks_trained_together_are_trained_as_each_would_be_alone():
    s = alternating.setting("smoke")
    tokenizer = alternating._tokenizer(s, 100)
    predictor = alternating._predictor(s, tokenizer.length, 100)
    predictor.trained_on = tokenizer.hash()
    ids = tokenizer.encode(s.x[:16])
    networks = {name: alternating._network(s, 100).eval() for name in ("addp", "hard")}
    base = alternating.ADDP(tokenizer, predictor, networks["addp"])
    alternating._Together(base, networks).loss(ids, torch.Generator().manual_seed(3)).backward()
    joint = networks["addp"].encoder.embed.weight.grad.clone()
    networks["addp"].zero_grad()
    base.loss(base.draw(ids, torch.Generator().manual_seed(3)))["loss"].backward()
    torch.testing.assert_close(networks["addp"].encoder.embed.weight.grad, joint)


def test_the_masked_autoencoder_does_not_see_what_it_fills_in():
    s = alternating.setting("smoke")
    net = alternating.MaskedAutoencoder(alternating._encoder(s, 100), 1, 2.0).eval()
    x = s.x[:8]
    order = torch.rand(8, 16, generator=torch.Generator().manual_seed(5)).argsort(1)
    hidden = torch.ones(8, 16).scatter(1, order[:, : net.visible], 0.0)
    assert net.visible == 4
    pixels = hidden.view(8, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3).bool()
    seen = net.encoder(torch.where(pixels, 1 - x, x), keep=order[:, : net.visible]).patches
    torch.testing.assert_close(seen, net.encoder(x, keep=order[:, : net.visible]).patches)
    assert math.isfinite(float(net.loss(x, torch.Generator().manual_seed(5)).detach()))
