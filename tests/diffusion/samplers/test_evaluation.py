"""What every sampler does around its steps: no gradients, no global randomness, evaluation mode, bar and trace."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from holdfast.core.random import generator
from holdfast.diffusion.ddpm import DDPMSchedule
from holdfast.diffusion.denoiser import Denoiser
from holdfast.diffusion.paths import CosinePath, LinearPath, VPPath
from holdfast.diffusion.samplers import (
    ddim,
    ddim_invert,
    ddpm,
    edm_heun,
    euler,
    euler_maruyama,
    heun,
    inpaint,
    time_grid,
)


class Net(nn.Module):
    """A map whose dropout would show if it were left on."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.dropout = nn.Dropout(0.5)
        self.frozen = nn.BatchNorm1d(3).eval()

    def forward(self, x, t):
        return self.scale * self.dropout(x)


X = torch.randn(4, 3, generator=generator(100))
MASK = torch.tensor([True, False, False])
RUNS = {
    "euler": lambda m, g, **k: euler(m, X, steps=5, **k),
    "heun": lambda m, g, **k: heun(m, X, steps=5, **k),
    "euler_maruyama": lambda m, g, **k: euler_maruyama(m, X, steps=5, generator=g, **k),
    "ddpm": lambda m, g, **k: ddpm(m, X, steps=5, generator=g, **k),
    "ddim": lambda m, g, **k: ddim(m, X, steps=5, **k),
    "noisy ddim": lambda m, g, **k: ddim(m, X, steps=5, eta=0.5, generator=g, **k),
    "edm_heun": lambda m, g, **k: edm_heun(m, X, steps=5, **k),
    "churned edm_heun": lambda m, g, **k: edm_heun(m, X, steps=5, churn=2.0, generator=g, **k),
    "inpaint": lambda m, g, **k: inpaint(m, X, torch.zeros(4, 3), MASK, steps=5, generator=g, **k),
}


@pytest.fixture
def model():
    return Denoiser(Net(), LinearPath())


@pytest.mark.parametrize("name", RUNS)
def test_the_generator_decides_everything(model, name):
    before, state = X.clone(), torch.get_rng_state()
    a, b = (RUNS[name](model, generator(101)) for _ in range(2))
    assert torch.equal(a.x, b.x)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(X, before)
    noisy = name not in ("euler", "heun", "ddim", "edm_heun")
    assert torch.equal(a.x, RUNS[name](model, generator(102)).x) != noisy
    assert (a.x.requires_grad, a.x.dtype, a.draws) == (False, torch.float32, 0)


@pytest.mark.parametrize("name", RUNS)
def test_the_model_is_in_evaluation_mode_and_is_handed_back_as_it_was(model, name):
    model.train()
    model.network.frozen.eval()
    seen = []
    RUNS[name](model, generator(103), callback=lambda i, t, x: seen.append(model.network.dropout.training))
    assert seen
    assert not any(seen)
    assert model.training
    assert model.network.dropout.training
    assert not model.network.frozen.training


def test_the_mode_is_handed_back_after_a_failure(model):
    model.train()

    def fail(i, t, x):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        euler(model, X, steps=5, callback=fail)
    assert model.network.dropout.training


@pytest.mark.parametrize("name", RUNS)
def test_the_trace_ends_with_the_samples_at_the_data(model, name):
    trace = []
    out = RUNS[name](model, generator(104), callback=lambda i, t, x: trace.append((i, t, x)))
    assert [i for i, _, _ in trace] == list(range(1, len(trace) + 1))
    assert trace[-1][1] == 0
    assert torch.equal(trace[-1][2].float(), out.x)


def test_the_bar_is_off_by_default_and_counts_steps(model, capsys):
    euler(model, X, steps=5)
    assert capsys.readouterr() == ("", "")
    euler(model, X, steps=5, progress="drawing")
    out, err = capsys.readouterr()
    assert out == ""
    assert "drawing" in err
    assert "5/5" in err
    assert "loss" not in err


@pytest.mark.parametrize("path", [LinearPath(), CosinePath()], ids=["linear", "cosine"])
def test_a_prediction_that_says_nothing_where_the_sampler_starts_is_refused(path):
    """Without signal noise does not tell the data, and without noise data do not tell the noise."""
    noise, data = Denoiser(Net(), path, "noise"), Denoiser(Net(), path, "data")
    for sampler in (euler, heun, ddim):
        with pytest.raises(ValueError, match=r"predicts noise says nothing of the .* at time 1"):
            sampler(noise, X, steps=4)
        assert bool(sampler(noise, X, steps=time_grid(path, 4, start=0.99)).x.isfinite().all())
        assert bool(sampler(data, X, steps=4).x.isfinite().all())
    with pytest.raises(ValueError, match="predicts data says nothing of the noise at time 0"):
        ddim_invert(data, X, steps=4)
    assert bool(ddim_invert(data, X, steps=time_grid(path, 4, end=0.01)).x.isfinite().all())
    assert bool(ddim_invert(noise, X, steps=time_grid(path, 4)).x.isfinite().all())


def test_every_kind_of_prediction_starts_on_paths_that_keep_some_signal():
    for path in (DDPMSchedule(1000), VPPath()):
        for kind in ("noise", "data", "velocity", "score"):
            for sampler in (euler, heun, ddim):
                assert bool(sampler(Denoiser(Net(), path, kind), X, steps=4).x.isfinite().all())
