"""Diffusion of bits: the process, the model, its sampler and its training."""

from holdfast.diffusion.binary.model import BinaryDiffusion
from holdfast.diffusion.binary.sampler import BitPredictor, binary_ancestral, data_probability
from holdfast.diffusion.binary.schedule import BinarySchedule
from holdfast.diffusion.binary.training import bit_probabilities, train_binary_diffusion

__all__ = [
    "BinaryDiffusion",
    "BinarySchedule",
    "BitPredictor",
    "binary_ancestral",
    "bit_probabilities",
    "data_probability",
    "train_binary_diffusion",
]
