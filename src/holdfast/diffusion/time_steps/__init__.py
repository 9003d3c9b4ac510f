"""Codes ordered by diffusion time: when an attribute is lost, and a code whose bands hold what is lost when."""

from holdfast.diffusion.time_steps.attribute_error import attribute_error, attribute_error_mc, loss_time
from holdfast.diffusion.time_steps.code_encoder import ConvCodeEncoder, MLPCodeEncoder
from holdfast.diffusion.time_steps.diti import PDAE, DiTi
from holdfast.diffusion.time_steps.gate import STAGES_512, TimeGate
from holdfast.diffusion.time_steps.guided import GuidedDenoiser
from holdfast.diffusion.time_steps.shift_mlp import Shift, ShiftMLP
from holdfast.diffusion.time_steps.shift_unet import ShiftUNet
from holdfast.diffusion.time_steps.sparse_direction import SparseDirection
from holdfast.diffusion.time_steps.training import train_diti

__all__ = [
    "PDAE",
    "STAGES_512",
    "ConvCodeEncoder",
    "DiTi",
    "GuidedDenoiser",
    "MLPCodeEncoder",
    "Shift",
    "ShiftMLP",
    "ShiftUNet",
    "SparseDirection",
    "TimeGate",
    "attribute_error",
    "attribute_error_mc",
    "loss_time",
    "train_diti",
]
