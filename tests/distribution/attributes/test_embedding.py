from __future__ import annotations

import pytest
import torch

from holdfast.core.random import generator, isolated_rng
from holdfast.distribution.attributes import AttributeEmbedding, train_attributes
from holdfast.distribution.generators.cvae import ConditionalVAE
from holdfast.distribution.generators.likelihood import GaussianLikelihood
from holdfast.distribution.generators.prior import AttributePrior
from holdfast.metrics import energy_distance
from holdfast.nn.coders import MLPDecoder, MLPEncoder

C = torch.tensor([[0.0, 1.0, 3.0], [1.0, 1.0, -2.0], [0.0, 0.0, 0.5]])
KNOWN = torch.tensor([[True, False, True], [False, True, False], [True, True, True]])


def test_what_stands_under_the_mask_changes_nothing():
    embed = AttributeEmbedding(3, 8, continuous=(2,)).fit(C)
    other = torch.where(KNOWN, C, torch.nan)
    assert torch.equal(embed(C, KNOWN), embed(other, KNOWN))


def test_a_missing_attribute_is_not_taken_for_either_value():
    embed = AttributeEmbedding(1, 8)
    zero, one, none = (
        embed(torch.tensor([[v]]), torch.tensor([[k]])) for v, k in ((0.0, True), (1.0, True), (0.0, False))
    )
    assert not torch.equal(none, zero)
    assert not torch.equal(none, one)


def test_rescaling_a_continuous_attribute_in_training_and_use_changes_nothing():
    embed = AttributeEmbedding(3, 8, continuous=(2,))
    scaled = C * torch.tensor([1.0, 1.0, 10.0]) + torch.tensor([0.0, 0.0, 5.0])
    a = embed.fit(C)(C)
    torch.testing.assert_close(embed.fit(scaled)(scaled), a)


def test_requests_outside_the_range_of_training_are_found():
    embed = AttributeEmbedding(3, 8, continuous=(2,)).fit(C)
    c = torch.tensor([[1.0, 0.0, 3.0], [1.0, 0.0, 3.1]])
    assert embed.outside(c).tolist() == [[False] * 3, [False, False, True]]


@pytest.mark.parametrize(
    ("c", "mask", "message"),
    [
        (torch.zeros(2, 2), None, r"shape \(batch, 3\), got \(2, 2\)"),
        (torch.tensor([[0.0, torch.nan, 0.0]]), None, "attribute 1 of row 0 is nan; say what is missing by the mask"),
        (torch.tensor([[0.0, 0.5, 0.0]]), None, "attribute 1 is binary: 0 or 1, but row 0 has 0.5"),
        (torch.zeros(1, 3), torch.ones(1, 2, dtype=torch.bool), "mask must be boolean"),
    ],
)
def test_attributes_that_make_no_sense_are_refused(c, mask, message):
    with pytest.raises(ValueError, match=message):
        AttributeEmbedding(3, 8, continuous=(2,))(c, mask)


def test_missing_entries_are_refused_where_none_were_announced():
    with pytest.raises(ValueError, match="every attribute must be known"):
        AttributeEmbedding(3, 8, missing=False)(torch.zeros(3, 3), KNOWN)
    with pytest.raises(ValueError, match="continuous must be in"):
        AttributeEmbedding(3, 8, continuous=(3,))


def test_leaving_an_attribute_out_samples_as_drawing_it_at_random_does():
    rng = generator(101)
    c = (torch.rand(4000, 2, generator=rng) < 0.5).float()
    x = 0.6 * c + 0.15 * torch.randn(4000, 2, generator=rng)
    with isolated_rng(100):
        model = ConditionalVAE(
            MLPEncoder((2,), 32, 4, width=64),
            AttributePrior(32, 2),
            MLPDecoder(34, (2,), width=64),
            embedding=AttributeEmbedding(2, 32),
            likelihood=GaussianLikelihood(0.1, "identity"),
        )
    train_attributes(model, x, c, steps=500, hide=0.3, lr=3e-3, seed=100, device="cpu")
    asked = torch.ones(2000, 2)
    drawn = asked.clone()
    drawn[:, 1] = (torch.rand(2000, generator=rng) < 0.5).float()
    known = torch.tensor([[True, False]]).expand(2000, 2)
    left_out = model.sample(asked, 1, generator(102), mask=known, mean=False)[:, 0]
    at_random = model.sample(drawn, 1, generator(103), mean=False)[:, 0]
    assert energy_distance(left_out, at_random, estimator="unbiased") <= 0.02
