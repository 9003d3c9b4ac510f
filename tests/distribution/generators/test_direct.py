from __future__ import annotations

import pytest
import torch
from torch import nn

from holdfast.core.random import generator
from holdfast.distribution.generators.direct import DirectGenerator

LOSSES = ("swd", "mmd", "sinkhorn")


def _moved_noise(loss, **options):
    """A generator whose law at code z is N(z, I): as exact as a generator can be for such sets."""
    model = DirectGenerator(2, 2, loss=loss, **options)
    linear = nn.Linear(4, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.cat([torch.eye(2), torch.eye(2)], 1))
        linear.bias.zero_()
    model.net = nn.Sequential(linear)
    return model


@pytest.mark.parametrize("loss", LOSSES)
def test_the_true_code_has_a_smaller_loss_than_others_and_a_gradient_that_leads_to_it(loss):
    model = _moved_noise(loss)
    x = torch.randn(3, 200, 2, generator=generator(100)) + torch.tensor([2.0, 0.0])
    values = [
        float(model.loss(x, torch.tensor([[m, 0.0]]).repeat(3, 1), generator(101)).detach()) for m in (2.0, 1.0, 0.0)
    ]
    assert values[0] < values[1] < values[2]
    z = torch.zeros(3, 2, requires_grad=True)
    model.loss(x, z, generator(101)).backward()
    assert bool((z.grad[:, 0] < 0).all())


def test_sliced_loss_of_a_translation_is_the_mean_squared_shadow_of_it():
    model = _moved_noise("swd", n_proj=4000)
    noise = torch.randn(1, 50, 2, generator=generator(101))  # the very noise that the generator draws
    value = float(model.loss(noise, torch.tensor([[3.0, 4.0]]), generator(101)))
    assert value == pytest.approx(25 / 2, rel=0.05)  # E <v, u>^2 = |v|^2 / d


def test_samples_follow_the_code():
    x = _moved_noise("swd").sample(torch.tensor([[5.0, -1.0]]), 20_000, generator(100))[0]
    torch.testing.assert_close(x.mean(0), torch.tensor([5.0, -1.0]), atol=0.03, rtol=0)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="sets need at least two"):
        DirectGenerator(2, 3, loss="mmd").loss(torch.zeros(4, 1, 2), torch.zeros(4, 3))
    with pytest.raises(ValueError, match="loss must be one of 'swd', 'mmd', 'sinkhorn'; got 'swt'"):
        DirectGenerator(2, 3, loss="swt")
    with pytest.raises(ValueError, match="points must have shape"):
        DirectGenerator(2, 3).loss(torch.zeros(4, 5, 3), torch.zeros(4, 3))
