"""Diffusion models: processes, targets, networks and samplers as four different things."""

from holdfast.diffusion.adapters import (
    CheckpointReport,
    DiTAdapter,
    UNetAdapter,
    dit_from_checkpoint,
    load_dit_checkpoint,
    pretrained_denoiser,
)
from holdfast.diffusion.alignment import AlignmentLoss, Projector, cosine_alignment, ntxent_alignment
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
from holdfast.diffusion.edm import EDMPreconditioner, EDMWeight, LogNormalSigma, VEPath
from holdfast.diffusion.frozen_encoder import FrozenEncoder, RepresentationTarget, encode_all, resample_tokens
from holdfast.diffusion.guidance import Guidance
from holdfast.diffusion.objective import DiffusionObjective, Term, TermContext, train_diffusion
from holdfast.diffusion.oracles.bits import ExactBitDenoiser
from holdfast.diffusion.oracles.gaussian import GaussianMixtureOracle, GaussianOracle
from holdfast.diffusion.paths import Coefficients, CosinePath, LinearPath, Path, VPPath

# samplers.ddpm stays there: its name here is that of the schedule's module.
from holdfast.diffusion.samplers import (
    TimeGrid,
    ddim,
    ddim_invert,
    edm_heun,
    euler,
    euler_maruyama,
    heun,
    inpaint,
    karras_sigmas,
    prior,
    time_grid,
)
from holdfast.diffusion.samples import Samples
from holdfast.diffusion.schedules import ExponentialDecay, Schedule, weight_at
from holdfast.diffusion.self_alignment import SelfAlignmentLoss, teacher_times
from holdfast.diffusion.token_times import TokenTimeGroups

__all__ = [
    "DIT_SIZES",
    "AlignmentLoss",
    "BernoulliCode",
    "BinaryDiffusion",
    "BinarySchedule",
    "BitPredictor",
    "BitTransformer",
    "Bottleneck",
    "CheckpointReport",
    "Code",
    "Coefficients",
    "ConvAutoencoder",
    "CosinePath",
    "DDPMSchedule",
    "Denoiser",
    "DiT",
    "DiTAdapter",
    "DiffusionObjective",
    "EDMPreconditioner",
    "EDMWeight",
    "ExactBitDenoiser",
    "ExponentialDecay",
    "FrozenEncoder",
    "GaussianKL",
    "GaussianMixtureOracle",
    "GaussianOracle",
    "Guidance",
    "LabelEmbedding",
    "LinearPath",
    "LogNormalSigma",
    "ModulatedBlock",
    "Output",
    "PatchDiscriminator",
    "Path",
    "PerceptualDistance",
    "Predictor",
    "Projector",
    "ReconstructionLoss",
    "RepresentationTarget",
    "Samples",
    "Schedule",
    "SelfAlignmentLoss",
    "Term",
    "TermContext",
    "TimeEmbedding",
    "TimeGrid",
    "TokenTimeGroups",
    "Transformer",
    "UNetAdapter",
    "VEPath",
    "VPPath",
    "binary_ancestral",
    "bit_probabilities",
    "bits_to_tokens",
    "cosine_alignment",
    "ddim",
    "ddim_invert",
    "dit_from_checkpoint",
    "edm_heun",
    "encode_all",
    "euler",
    "euler_maruyama",
    "heun",
    "inpaint",
    "karras_sigmas",
    "load_dit_checkpoint",
    "ntxent_alignment",
    "pretrained_denoiser",
    "prior",
    "resample_tokens",
    "sincos_positions",
    "teacher_times",
    "time_grid",
    "tokens_to_bits",
    "train_autoencoder",
    "train_binary_diffusion",
    "train_diffusion",
    "weight_at",
]
