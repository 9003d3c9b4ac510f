"""Masked (absorbing) diffusion of tokens: schedules, masks, losses and samplers."""

from holdfast.diffusion.masked.confidence import (
    ConfidenceSampler,
    HidingSchedule,
    hidden_counts,
    hide_least_confident,
)
from holdfast.diffusion.masked.masking import hidden_count, lowest, mask_bernoulli, mask_exactly, nested_masks
from holdfast.diffusion.masked.model import TokenModel, logits_at, reads_time, restricted_log_probs, token_logits
from holdfast.diffusion.masked.schedules import (
    CosineMask,
    GeometricMask,
    LinearMask,
    MaskSchedule,
    check_mask_schedule,
)

__all__ = [
    "ConfidenceSampler",
    "CosineMask",
    "GeometricMask",
    "HidingSchedule",
    "LinearMask",
    "MaskSchedule",
    "TokenModel",
    "check_mask_schedule",
    "hidden_count",
    "hidden_counts",
    "hide_least_confident",
    "logits_at",
    "lowest",
    "mask_bernoulli",
    "mask_exactly",
    "nested_masks",
    "reads_time",
    "restricted_log_probs",
    "token_logits",
]
