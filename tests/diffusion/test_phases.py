"""Training in several phases."""

import pytest
import torch

from holdfast.core.random import isolated_rng
from holdfast.diffusion import (
    Denoiser,
    DiffusionObjective,
    DiT,
    LinearPath,
    Phase,
    block_cost,
    fit_phases,
    train_diffusion,
)

X = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
OPTIONS = {"batch_size": 8, "lr": 1e-2, "device": "cpu", "seed": 5}


def make():
    with isolated_rng(0):
        return Denoiser(DiT(1, 8, 4, 16, 2, 2), LinearPath())


def same(a, b):
    return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


def test_one_phase_is_plain_training_bit_for_bit():
    a, b = make(), make()
    fit_phases([Phase("all", a, 4, ema=0.9)], X, **OPTIONS)
    train_diffusion(b, X, steps=4, ema=0.9, **OPTIONS)
    assert same(a, b)


def test_a_first_phase_of_another_network_changes_nothing_of_the_last():
    a, b = make(), make()
    fit_phases([Phase("other", make(), 2, ema=None), Phase("all", a, 3, ema=None)], X, **OPTIONS)
    fit_phases([Phase("all", b, 3, ema=None)], X, **OPTIONS)
    assert same(a, b)


def test_carried_moments_differ_from_fresh_ones():
    found = {}
    for kind in ("fresh", "carry"):
        model = make()
        fit_phases([Phase("one", model, 3, ema=None), Phase("two", model, 2, optimizer=kind, ema=None)], X, **OPTIONS)
        found[kind] = model
    assert not same(found["fresh"], found["carry"])


def test_weights_move_between_phases_and_what_moved_is_recorded():
    first, second = make(), make()
    result = fit_phases(
        [
            Phase("one", first, 2, ema=None),
            Phase("two", second, 1, ema=None, before=lambda: second.load_state_dict(first.state_dict())),
        ],
        X,
        **OPTIONS,
    )
    assert str(result.records[1].report) == "<All keys matched successfully>"
    assert [r.name for r in result.records] == ["one", "two"]
    assert result.seconds >= 0


def test_cost_counts_blocks_up_to_the_exit():
    net = make().network
    assert (block_cost(net), block_cost(net, 1)) == (2, 1)
    with pytest.raises(TypeError, match="does not say how many blocks"):
        block_cost(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="stop_at"):
        block_cost(net, 3)


def test_bad_phases_are_refused():
    model = make()
    with pytest.raises(ValueError, match="steps of phase 'a'"):
        Phase("a", model, 0)
    with pytest.raises(ValueError, match="'warm'"):
        Phase("a", model, 1, optimizer="warm")
    with pytest.raises(ValueError, match="has its own"):
        Phase("a", model, 1, terms=[object()], objective=DiffusionObjective(model))
    with pytest.raises(ValueError, match="phase"):
        fit_phases([], X)
    with pytest.raises(ValueError, match="a"):
        fit_phases([Phase("a", model, 1), Phase("a", model, 1)], X, **OPTIONS)
    with pytest.raises(ValueError, match="no optimizer state"):
        fit_phases([Phase("a", model, 1, optimizer="carry")], X, **OPTIONS)
