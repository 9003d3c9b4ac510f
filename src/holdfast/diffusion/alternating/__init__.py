"""Alternating between pixels and tokens: an encoder that sees images while a loop of predictions draws them."""

from holdfast.diffusion.alternating.addp import ADDP, AlternatingSample, soft_token_loss
from holdfast.diffusion.alternating.pixel_to_token import PixelToToken
from holdfast.diffusion.alternating.ratio_law import RatioLaw
from holdfast.diffusion.alternating.token_predictor import MaskedTokenPredictor
from holdfast.diffusion.alternating.tokenizer import FrozenTokenizer
from holdfast.diffusion.alternating.training import train_addp, train_token_predictor

__all__ = [
    "ADDP",
    "AlternatingSample",
    "FrozenTokenizer",
    "MaskedTokenPredictor",
    "PixelToToken",
    "RatioLaw",
    "soft_token_loss",
    "train_addp",
    "train_token_predictor",
]
