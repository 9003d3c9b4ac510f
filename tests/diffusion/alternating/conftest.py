from __future__ import annotations

import pytest
import torch

from holdfast.diffusion.alternating import ADDP, FrozenTokenizer, MaskedTokenPredictor, PixelToToken, RatioLaw
from holdfast.diffusion.autoencoder import ConvAutoencoder, VectorQuantizer
from holdfast.diffusion.backbones.vit import ViTEncoder

CODES, LENGTH = 8, 16


def make_tokenizer(seed=0):
    torch.manual_seed(seed)
    net = ConvAutoencoder(VectorQuantizer(CODES, 8, dim=4), channels=1, widths=(8, 8), blocks=0, middle=False)
    return FrozenTokenizer(net, size=8)


def make_predictor(tokenizer=None, seed=1, **options):
    torch.manual_seed(seed)
    net = MaskedTokenPredictor(CODES, LENGTH, width=16, depth=2, heads=2, decoder_depth=1, **options)
    if tokenizer is not None:
        net.trained_on = tokenizer.hash()
    return net.eval()


def make_network(seed=2, **options):
    torch.manual_seed(seed)
    encoder = ViTEncoder(1, 8, patch=2, width=16, depth=2, heads=2)
    net = PixelToToken(encoder, CODES, decoder_depth=2, **options)
    for p in net.parameters():  # away from the small initial values, so that effects are seen
        p.data += 0.1 * torch.randn(p.shape)
    return net.eval()


def make_addp(**options):
    tokenizer = make_tokenizer()
    return ADDP(tokenizer, make_predictor(tokenizer), make_network(), law=RatioLaw(), **options).eval()


@pytest.fixture
def tokenizer():
    return make_tokenizer()


@pytest.fixture
def addp():
    return make_addp()
