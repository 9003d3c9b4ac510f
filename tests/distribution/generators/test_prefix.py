from __future__ import annotations

import pytest
import torch

from holdfast.core.random import generator
from holdfast.distribution.generators.prefix import PrefixConditioned


@pytest.fixture(params=[1, 3])
def model(request):
    torch.manual_seed(0)
    return PrefixConditioned(3, 4, 2, width=16, depth=1, heads=2, prefix=request.param)


def test_a_symbol_hears_of_the_code_and_of_those_before_it_only(model):
    x, z = torch.randint(3, (5, 3)), torch.randn(5, 2)
    out = model.logits(x, z)
    assert out.shape == (5, 4, 3)
    later = x.clone()
    later[:, 2] = (later[:, 2] + 1) % 3
    changed = (model.logits(later, z) - out).abs().amax((0, 2))
    assert bool((changed[:3] < 1e-5).all())
    assert float(changed[3]) > 1e-4
    assert bool(((model.logits(x, z + 1) - out).abs().amax((0, 2)) > 1e-4).all())


def test_likelihoods_of_all_sequences_add_up_to_one(model):
    everything = torch.cartesian_prod(*(torch.arange(3),) * 4)
    z = torch.randn(1, 2)
    logits = model.logits(everything[:, :-1], z.expand(len(everything), -1)).log_softmax(-1)
    each = logits.gather(2, everything[..., None]).sum((1, 2))
    assert float(each.exp().sum()) == pytest.approx(1, abs=1e-4)
    loss = model.loss(everything[None], z)
    torch.testing.assert_close(loss, -each.mean() / 4)


def test_sampled_sequences_have_their_likelihood_as_frequency(model):
    everything = torch.cartesian_prod(*(torch.arange(3),) * 4)
    z, n = torch.randn(1, 2), 8000
    with torch.no_grad():
        logits = model.logits(everything[:, :-1], z.expand(len(everything), -1)).log_softmax(-1)
    p = logits.gather(2, everything[..., None]).sum((1, 2)).exp()
    x = model.sample(z, n, generator(100))[0]
    counts = torch.bincount(x @ torch.tensor([27, 9, 3, 1]), minlength=81) / n
    assert bool(((counts - p).abs() < 5 * (p * (1 - p) / n).sqrt()).all())


def test_bad_symbols_are_refused(model):
    with pytest.raises(ValueError, match="whole numbers from 0 to 2"):
        model.loss(torch.full((1, 2, 4), 3), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="points must have shape"):
        model.loss(torch.zeros(1, 2, 5), torch.zeros(1, 2))
