from __future__ import annotations

import pytest
import torch

from holdfast.nn.coders import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder


@pytest.mark.parametrize("make", [MLPEncoder, ConvEncoder])
def test_encoders_read_both_the_image_and_the_condition(make):
    encoder = make((1, 16, 16), 3, 5)
    x, e = torch.rand(2, 1, 16, 16), torch.rand(2, 3)
    out = encoder(x, e)
    assert out.shape == (2, 5)
    assert not torch.equal(out, encoder(x, e + 1))
    assert not torch.equal(out, encoder(x.flip(-1), e))


@pytest.mark.parametrize("make", [MLPDecoder, ConvDecoder])
def test_decoders_return_one_image_for_every_vector_whatever_else_is_in_the_batch(make):
    decoder = make(4, (3, 32, 16))
    h = torch.randn(3, 4)
    out = decoder(h)
    assert out.shape == (3, 3, 32, 16)
    torch.testing.assert_close(decoder(h[1:2]), out[1:2])


@pytest.mark.parametrize("make", [lambda s: ConvEncoder(s, 0, 2), lambda s: ConvDecoder(2, s)])
@pytest.mark.parametrize("shape", [(1, 20, 20), (32, 32)])
def test_sides_that_cannot_be_halved_are_refused(make, shape):
    with pytest.raises(ValueError, match="multiples of 16"):
        make(shape)
