"""Learners and losses that hold under shift."""

from holdfast.shift.adaptive_label_robust import AdaptiveLDR, adaptive_temperature
from holdfast.shift.adversarial import DANN, reverse_gradient
from holdfast.shift.erm import ERM, ERMRegressor
from holdfast.shift.invariant import CORAL, IRM, GroupDRO, VREx
from holdfast.shift.label_adversary import label_dro, project_capped_simplex
from holdfast.shift.label_dro_learners import AdaptiveLabelDRO, LabelDRO
from holdfast.shift.label_robust import ldr_kl, ldr_weights, normalize_scores, score_gaps
from holdfast.shift.mixup import Mixup
from holdfast.shift.noisy_label_losses import (
    NOISY_LABEL_LOSSES,
    asymmetric_generalized_cross_entropy,
    asymmetric_unhinged,
    crammer_singer,
    generalized_cross_entropy,
    jensen_shannon,
    mean_absolute_error,
    mean_squared_error,
    nce_agce,
    nce_aul,
    nce_rce,
    normalized_cross_entropy,
    reverse_cross_entropy,
    robust_log_loss,
    symmetric_cross_entropy,
    truncated_generalized_cross_entropy,
    weston_watkins,
)
from holdfast.shift.penalties import GroupDROLoss, IRMv1Loss, VRExLoss, coral_penalty, irm_penalty, vrex_penalty

__all__ = [
    "CORAL",
    "DANN",
    "ERM",
    "IRM",
    "NOISY_LABEL_LOSSES",
    "AdaptiveLDR",
    "AdaptiveLabelDRO",
    "ERMRegressor",
    "GroupDRO",
    "GroupDROLoss",
    "IRMv1Loss",
    "LabelDRO",
    "Mixup",
    "VREx",
    "VRExLoss",
    "adaptive_temperature",
    "asymmetric_generalized_cross_entropy",
    "asymmetric_unhinged",
    "coral_penalty",
    "crammer_singer",
    "generalized_cross_entropy",
    "irm_penalty",
    "jensen_shannon",
    "label_dro",
    "ldr_kl",
    "ldr_weights",
    "mean_absolute_error",
    "mean_squared_error",
    "nce_agce",
    "nce_aul",
    "nce_rce",
    "normalize_scores",
    "normalized_cross_entropy",
    "project_capped_simplex",
    "reverse_cross_entropy",
    "reverse_gradient",
    "robust_log_loss",
    "score_gaps",
    "symmetric_cross_entropy",
    "truncated_generalized_cross_entropy",
    "vrex_penalty",
    "weston_watkins",
]
