"""Guidance: what it equals, when it asks the null class, and what the samplers count and refuse."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from holdfast.core.random import generator
from holdfast.diffusion.backbones.dit import DiT
from holdfast.diffusion.ddpm import DDPMSchedule
from holdfast.diffusion.denoiser import Denoiser
from holdfast.diffusion.guidance import Guidance
from holdfast.diffusion.oracles.gaussian import GaussianMixtureOracle
from holdfast.diffusion.paths import LinearPath
from holdfast.diffusion.samplers import ddim, ddpm, edm_heun, euler, euler_maruyama, heun, inpaint

MEANS = torch.tensor([[-2.0, 0.0], [2.0, 1.0], [0.0, -1.0]], dtype=torch.float64)


class Recorded:
    """A mixture that keeps the labels and times it was asked for."""

    def __init__(self, path) -> None:
        self.oracle = GaussianMixtureOracle(MEANS, 0.2, path)
        self.path, self.null_class = path, 3
        self.nulls: list[float] = []
        self.times: list[float] = []

    def predict(self, x, t, y=None, *, target="velocity"):
        self.times.append(float(t[0]))
        if y is not None and bool((y == 3).any()):
            self.nulls.append(float(t[0]))
        return self.oracle.predict(x, t, y, target=target)


X = torch.randn(6, 2, generator=generator(100), dtype=torch.float64)
Y = torch.tensor([0, 1, 2, 0, 1, 2])


def run(name, model, **options):
    rng = generator(101)
    if name == "inpaint":
        return inpaint(model, X, torch.zeros_like(X), torch.tensor([True, False]), steps=8, generator=rng, **options)
    if name == "euler_maruyama":
        return euler_maruyama(model, X, steps=8, generator=rng, **options)
    if name == "ddpm":
        return ddpm(model, X, steps=8, generator=rng, **options)
    return {"euler": euler, "heun": heun, "ddim": ddim, "edm_heun": edm_heun}[name](model, X, steps=8, **options)


SAMPLERS = ["euler", "heun", "euler_maruyama", "ddpm", "ddim", "edm_heun", "inpaint"]


@pytest.mark.parametrize("name", SAMPLERS)
def test_scale_one_is_the_conditional_model_and_asks_nothing_else(name):
    plain, guided = Recorded(LinearPath()), Recorded(LinearPath())
    a = run(name, plain, y=Y)
    b = run(name, guided, y=Y, guidance=Guidance(1.0))
    assert torch.equal(a.x, b.x)
    assert a.calls == b.calls == len(guided.times)
    assert guided.nulls == []


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_empty_interval_never_calls_the_null_branch(name):
    model = Recorded(LinearPath())
    out = run(name, model, y=Y, guidance=Guidance(3.0, interval=(0.0, 0.0)))
    assert model.nulls == []
    assert out.calls == len(model.times)
    assert torch.equal(out.x, run(name, Recorded(LinearPath()), y=Y).x)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_null_branch_is_asked_inside_the_interval_only(name):
    model = Recorded(LinearPath())
    out = run(name, model, y=Y, guidance=Guidance(3.0, interval=(0.2, 0.7)))
    assert model.nulls
    assert model.nulls == [t for t in model.times if 0.2 <= t <= 0.7]
    assert out.calls == len(model.times) + len(model.nulls)


@pytest.mark.parametrize("target", ["velocity", "noise", "data", "score"])
def test_guiding_one_prediction_guides_all(target):
    path = LinearPath()
    model, t = GaussianMixtureOracle(MEANS, 0.2, path), torch.full((6,), 0.4, dtype=torch.float64)
    guidance = Guidance(2.5)
    velocity = guidance.predict(model, X, t, Y)
    null = torch.full_like(Y, 3)
    expected = model.predict(X, t, null) + 2.5 * (model.predict(X, t, Y) - model.predict(X, t, null))
    torch.testing.assert_close(velocity, expected)
    torch.testing.assert_close(
        guidance.predict(model, X, t, Y, target=target), path.convert(velocity, X, t, "velocity", target)
    )


def test_scale_zero_is_the_unconditional_model():
    model = GaussianMixtureOracle(MEANS, 0.2, LinearPath())
    a = euler(model, X, steps=8, y=Y, guidance=Guidance(0.0)).x
    torch.testing.assert_close(a, euler(model, X, steps=8).x)


def test_learned_variance_is_guided_in_the_data_only():
    """At scale 1 there is one call a step; guided, the noise keeps the conditional model's spread."""
    net = DiT(1, 4, patch=2, width=8, depth=1, heads=1, num_classes=2, learn_sigma=True)
    nn.init.normal_(net.head.weight, std=0.1, generator=generator(102))
    nn.init.normal_(net.label.table.weight, generator=generator(103))
    model, x, y = Denoiser(net, DDPMSchedule(10), "noise"), torch.randn(2, 1, 4, 4, generator=generator(104)), Y[:2]
    plain = ddpm(model, x, steps=10, generator=generator(105), variance="learned", y=y)
    guided = ddpm(model, x, steps=10, generator=generator(105), variance="learned", y=y, guidance=Guidance(1.0))
    assert torch.equal(plain.x, guided.x)
    assert (plain.calls, guided.calls) == (10, 10)
    assert (
        ddpm(model, x, steps=10, generator=generator(105), variance="learned", y=y, guidance=Guidance(2.0)).calls == 20
    )


@pytest.mark.parametrize("options", [{"num_classes": 0}, {"num_classes": 3, "class_dropout": 0.0}])
def test_a_model_without_null_class_is_refused(options):
    model = Denoiser(DiT(1, 4, patch=2, width=8, depth=1, heads=1, **options), LinearPath())
    x, y = torch.randn(2, 1, 4, 4, generator=generator(106)), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="guidance needs a model with a null class"):
        euler(model, x, steps=2, y=y, guidance=Guidance(2.0))


def test_labels_that_are_no_class_are_refused_before_any_call():
    model = Recorded(LinearPath())
    with pytest.raises(ValueError, match="y must lie in"):
        euler(model, X, steps=2, y=torch.tensor([0, 1, 2, 3, 4, 0]))
    assert model.times == []


def test_bad_guidance():
    with pytest.raises(ValueError, match="scale must be in"):
        Guidance(-1.0)
    with pytest.raises(TypeError, match="scale must be a number"):
        Guidance("strong")  # pyright: ignore
    with pytest.raises(ValueError, match="high end must be in"):
        Guidance(2.0, interval=(0.7, 0.2))
    with pytest.raises(ValueError, match="interval must be"):
        Guidance(2.0, interval=(0.1, 0.2, 0.3))  # pyright: ignore
