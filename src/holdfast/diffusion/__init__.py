"""Diffusion models: processes, targets, networks and samplers as four different things."""

from holdfast.diffusion.autoencoder import (
    BernoulliCode,
    Bottleneck,
    Code,
    ConvAutoencoder,
    GaussianKL,
    PatchDiscriminator,
    PerceptualDistance,
    ReconstructionLoss,
    bits_to_tokens,
    tokens_to_bits,
    train_autoencoder,
)
from holdfast.diffusion.backbones.bit_transformer import BitTransformer
from holdfast.diffusion.backbones.dit import DIT_SIZES, DiT
from holdfast.diffusion.backbones.embeddings import LabelEmbedding, TimeEmbedding, sincos_positions
from holdfast.diffusion.backbones.transformer import ModulatedBlock, Transformer
from holdfast.diffusion.binary import (
    BinaryDiffusion,
    BinarySchedule,
    BitPredictor,
    binary_ancestral,
    bit_probabilities,
    train_binary_diffusion,
)
from holdfast.diffusion.ddpm import DDPMSchedule
from holdfast.diffusion.denoiser import Denoiser, Output, Predictor
from holdfast.diffusion.objective import DiffusionObjective, Term, TermContext, train_diffusion
from holdfast.diffusion.oracles.bits import ExactBitDenoiser
from holdfast.diffusion.paths import Coefficients, CosinePath, LinearPath, Path, VPPath
from holdfast.diffusion.schedules import ExponentialDecay, Schedule, weight_at
from holdfast.diffusion.self_alignment import SelfAlignmentLoss, teacher_times
from holdfast.diffusion.token_times import TokenTimeGroups

__all__ = [
    "DIT_SIZES",
    "BernoulliCode",
    "BinaryDiffusion",
    "BinarySchedule",
    "BitPredictor",
    "BitTransformer",
    "Bottleneck",
    "Code",
    "Coefficients",
    "ConvAutoencoder",
    "CosinePath",
    "DDPMSchedule",
    "Denoiser",
    "DiT",
    "DiffusionObjective",
    "ExactBitDenoiser",
    "ExponentialDecay",
    "GaussianKL",
    "LabelEmbedding",
    "LinearPath",
    "ModulatedBlock",
    "Output",
    "PatchDiscriminator",
    "Path",
    "PerceptualDistance",
    "Predictor",
    "ReconstructionLoss",
    "Schedule",
    "SelfAlignmentLoss",
    "Term",
    "TermContext",
    "TimeEmbedding",
    "TokenTimeGroups",
    "Transformer",
    "VPPath",
    "binary_ancestral",
    "bit_probabilities",
    "bits_to_tokens",
    "sincos_positions",
    "teacher_times",
    "tokens_to_bits",
    "train_autoencoder",
    "train_binary_diffusion",
    "train_diffusion",
    "weight_at",
]
