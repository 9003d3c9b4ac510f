"""Masked (absorbing) diffusion of tokens: schedules, masks, losses and samplers."""

from holdfast.diffusion.masked.ancestral import (
    AncestralMaskedSampler,
    TwoStageMaskedSampler,
    expected_nfe,
)
from holdfast.diffusion.masked.confidence import (
    ConfidenceSampler,
    HidingSchedule,
    hidden_counts,
    hide_least_confident,
)
from holdfast.diffusion.masked.first_hitting import FirstHittingSampler, hitting_times
from holdfast.diffusion.masked.losses import NelboMode, exact_masked_nelbo, masked_cross_entropy, masked_nelbo
from holdfast.diffusion.masked.masking import hidden_count, lowest, mask_bernoulli, mask_exactly, nested_masks
from holdfast.diffusion.masked.model import TokenModel, logits_at, reads_time, restricted_log_probs, token_logits
from holdfast.diffusion.masked.schedules import (
    CosineMask,
    GeometricMask,
    LinearMask,
    MaskSchedule,
    check_mask_schedule,
)
from holdfast.diffusion.masked.truncated_law import truncated_ancestral_law

__all__ = [
    "AncestralMaskedSampler",
    "ConfidenceSampler",
    "CosineMask",
    "FirstHittingSampler",
    "GeometricMask",
    "HidingSchedule",
    "LinearMask",
    "MaskSchedule",
    "NelboMode",
    "TokenModel",
    "TwoStageMaskedSampler",
    "check_mask_schedule",
    "exact_masked_nelbo",
    "expected_nfe",
    "hidden_count",
    "hidden_counts",
    "hide_least_confident",
    "hitting_times",
    "logits_at",
    "lowest",
    "mask_bernoulli",
    "mask_exactly",
    "masked_cross_entropy",
    "masked_nelbo",
    "nested_masks",
    "reads_time",
    "restricted_log_probs",
    "token_logits",
    "truncated_ancestral_law",
]
