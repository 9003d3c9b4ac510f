"""Alternating between pixels and tokens: an encoder that sees images while a loop of predictions draws them."""

from holdfast.diffusion.alternating.pixel_to_token import PixelToToken
from holdfast.diffusion.alternating.ratio_law import RatioLaw
from holdfast.diffusion.alternating.token_predictor import MaskedTokenPredictor
from holdfast.diffusion.alternating.tokenizer import FrozenTokenizer

__all__ = ["FrozenTokenizer", "MaskedTokenPredictor", "PixelToToken", "RatioLaw"]
