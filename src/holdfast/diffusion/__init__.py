"""Diffusion models: processes, targets, networks and samplers as four different things."""

from holdfast.diffusion.backbones.dit import DIT_SIZES, DiT
from holdfast.diffusion.backbones.embeddings import LabelEmbedding, TimeEmbedding, sincos_positions
from holdfast.diffusion.backbones.transformer import ModulatedBlock, Transformer
from holdfast.diffusion.ddpm import DDPMSchedule
from holdfast.diffusion.denoiser import Denoiser, Output, Predictor
from holdfast.diffusion.objective import DiffusionObjective, Term, TermContext, train_diffusion
from holdfast.diffusion.paths import Coefficients, CosinePath, LinearPath, Path, VPPath
from holdfast.diffusion.schedules import ExponentialDecay, Schedule, weight_at
from holdfast.diffusion.self_alignment import SelfAlignmentLoss, teacher_times
from holdfast.diffusion.token_times import TokenTimeGroups

__all__ = [
    "DIT_SIZES",
    "Coefficients",
    "CosinePath",
    "DDPMSchedule",
    "Denoiser",
    "DiT",
    "DiffusionObjective",
    "ExponentialDecay",
    "LabelEmbedding",
    "LinearPath",
    "ModulatedBlock",
    "Output",
    "Path",
    "Predictor",
    "Schedule",
    "SelfAlignmentLoss",
    "Term",
    "TermContext",
    "TimeEmbedding",
    "TokenTimeGroups",
    "Transformer",
    "VPPath",
    "sincos_positions",
    "teacher_times",
    "train_diffusion",
    "weight_at",
]
