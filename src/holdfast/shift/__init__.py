"""Learners and losses that hold under shift."""

from holdfast.shift.adversarial import DANN, reverse_gradient
from holdfast.shift.erm import ERM, ERMRegressor
from holdfast.shift.invariant import CORAL, IRM, GroupDRO, VREx
from holdfast.shift.mixup import Mixup
from holdfast.shift.penalties import GroupDROLoss, IRMv1Loss, VRExLoss, coral_penalty, irm_penalty, vrex_penalty

__all__ = [
    "CORAL",
    "DANN",
    "ERM",
    "IRM",
    "ERMRegressor",
    "GroupDRO",
    "GroupDROLoss",
    "IRMv1Loss",
    "Mixup",
    "VREx",
    "VRExLoss",
    "coral_penalty",
    "irm_penalty",
    "reverse_gradient",
    "vrex_penalty",
]
