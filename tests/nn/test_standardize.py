"""Laws of the standardisation layer and of attention."""

from __future__ import annotations

import pytest
import torch

from holdfast.nn import Attention, Standardize, TransformerBlock


def test_training_data_becomes_zero_mean_unit_variance():
    x = torch.randn(500, 3, generator=torch.Generator().manual_seed(100)) * torch.tensor([1.0, 5.0, 0.1]) + 7
    layer = Standardize(3, x.mean(0).tolist(), x.std(0, correction=0).tolist())
    z = layer(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(3), atol=1e-4, rtol=0)


def test_constant_feature_is_centred_and_left_unscaled():
    layer = Standardize(1, (4.0,), (0.0,))
    assert layer(torch.tensor([[4.0], [6.0]])).flatten().tolist() == [0.0, 2.0]


def test_statistics_travel_with_the_state():
    layer = Standardize(2, (1.0, 2.0), (3.0, 4.0))
    other = Standardize(2)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(torch.ones(1, 2)), layer(torch.ones(1, 2)))


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((1.0,), (), "mean must have 2 entries"),
        ((), (1.0, -1.0), "std must be non-negative"),
        ((float("nan"), 0.0), (), "mean must be finite"),
    ],
)
def test_bad_statistics_are_refused(mean, std, message):
    with pytest.raises(ValueError, match=message):
        Standardize(2, mean, std)


def test_attention_is_equivariant_to_the_order_of_tokens():
    torch.manual_seed(100)
    block, x = TransformerBlock(8, heads=2), torch.randn(2, 5, 8)
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(block(x[:, order]), block(x)[:, order], atol=1e-5, rtol=1e-4)


def test_attention_over_one_key_returns_its_value():
    layer = Attention(8, heads=2)
    key = torch.randn(1, 1, 8)
    value = layer.out(layer.key_value(key)[..., 8:])
    torch.testing.assert_close(layer(torch.randn(1, 3, 8), key), value.expand(1, 3, 8))


def test_masked_keys_have_no_influence():
    layer, x = Attention(8, heads=2), torch.randn(1, 4, 8)
    mask = torch.tensor([[True, True, False, False]])
    torch.testing.assert_close(layer(x, mask=mask), layer(x, x[:, :2]), atol=1e-6, rtol=1e-5)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="multiple of heads"):
        Attention(10, heads=4)
