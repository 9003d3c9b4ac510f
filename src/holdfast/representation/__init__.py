"""Representations made to last, and what reads them."""

from holdfast.representation import ood
from holdfast.representation.anchors import AnchorSet
from holdfast.representation.category_model import CategoryModel
from holdfast.representation.category_modeling import GroupedCenterHead, HVCMLoss, as_groups
from holdfast.representation.compatibility import BCTLoss, FeatureDistillation, HOCLoss
from holdfast.representation.compatibility_matrix import (
    CompatibilityMatrix,
    DefinitionCheck,
    check_definition,
    template_accuracy,
)
from holdfast.representation.lifelong import LifelongResult, LifelongTrainer
from holdfast.representation.probe import LinearProbe
from holdfast.representation.probe_head import ProbeHead
from holdfast.representation.rehearsal import HalfAndHalfSampler, RehearsalBuffer, herd
from holdfast.representation.relative import quantize_similarity, relative_projection, stratified_mean
from holdfast.representation.relative_classifier import RelativeClassifier
from holdfast.representation.relative_encoder import RelativeEncoder
from holdfast.representation.self_distillation import DINOLoss, EMATeacher, MultiCropWrapper, random_resized_crops
from holdfast.representation.space_comparison import compare_spaces, rotate_onto
from holdfast.representation.stationary import StationaryClassifier
from holdfast.representation.stitching import stitch
from holdfast.representation.trust import DistrustScore, Trust

__all__ = [
    "AnchorSet",
    "BCTLoss",
    "CategoryModel",
    "CompatibilityMatrix",
    "DINOLoss",
    "DefinitionCheck",
    "DistrustScore",
    "EMATeacher",
    "FeatureDistillation",
    "GroupedCenterHead",
    "HOCLoss",
    "HVCMLoss",
    "HalfAndHalfSampler",
    "LifelongResult",
    "LifelongTrainer",
    "LinearProbe",
    "MultiCropWrapper",
    "ProbeHead",
    "RehearsalBuffer",
    "RelativeClassifier",
    "RelativeEncoder",
    "StationaryClassifier",
    "Trust",
    "as_groups",
    "check_definition",
    "compare_spaces",
    "herd",
    "ood",
    "quantize_similarity",
    "random_resized_crops",
    "relative_projection",
    "rotate_onto",
    "stitch",
    "stratified_mean",
    "template_accuracy",
]
