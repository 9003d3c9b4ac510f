"""Networks and checkpoints of other projects, with this package's call, taps and early exit."""

from holdfast.diffusion.adapters.diffusers_models import DiTAdapter, UNetAdapter
from holdfast.diffusion.adapters.pretrained import NoiseFromAngle, pretrained_denoiser, schedule_from_config
from holdfast.diffusion.adapters.sit_checkpoint import CheckpointReport, dit_from_checkpoint, load_dit_checkpoint
from holdfast.diffusion.adapters.tapped import run_tapped

__all__ = [
    "CheckpointReport",
    "DiTAdapter",
    "NoiseFromAngle",
    "UNetAdapter",
    "dit_from_checkpoint",
    "load_dit_checkpoint",
    "pretrained_denoiser",
    "run_tapped",
    "schedule_from_config",
]
