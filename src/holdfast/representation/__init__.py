"""Representations made to last, and what reads them."""

from holdfast.nn.teacher import EMATeacher
from holdfast.representation import ood
from holdfast.representation.anchors import AnchorSet
from holdfast.representation.cascade import AdaptiveCascade, CascadePrediction
from holdfast.representation.category_model import CategoryModel
from holdfast.representation.category_modeling import GroupedCenterHead, HVCMLoss, as_groups
from holdfast.representation.compatibility import BCTLoss, FeatureDistillation, HOCLoss
from holdfast.representation.compatibility_matrix import (
    CompatibilityMatrix,
    DefinitionCheck,
    check_definition,
    template_accuracy,
)
from holdfast.representation.concatenation import ConcatRepresentation, TwoStageFineTune, concat_heads
from holdfast.representation.funnel_retrieval import AdaptiveRetriever
from holdfast.representation.inner_product_search import InnerProductTable
from holdfast.representation.lifelong import LifelongResult, LifelongTrainer
from holdfast.representation.matryoshka import (
    MatryoshkaLoss,
    MatryoshkaPairLoss,
    PCATruncator,
    PrefixCrossEntropy,
    RandomSubset,
)
from holdfast.representation.matryoshka_classifier import MatryoshkaClassifier
from holdfast.representation.multi_head_distillation import (
    DistilledRepresentation,
    MultiHeadDistillation,
    multi_head_distillation_loss,
)
from holdfast.representation.probe import LinearProbe
from holdfast.representation.probe_gain import probe_gain
from holdfast.representation.probe_head import ProbeHead
from holdfast.representation.rehearsal import HalfAndHalfSampler, RehearsalBuffer, herd
from holdfast.representation.relative import quantize_similarity, relative_projection, stratified_mean
from holdfast.representation.relative_classifier import RelativeClassifier
from holdfast.representation.relative_encoder import RelativeEncoder
from holdfast.representation.rich import Featurizer, snapshots, train_episodes
from holdfast.representation.rich_classifier import RichClassifier
from holdfast.representation.self_distillation import DINOLoss, MultiCropWrapper, random_resized_crops
from holdfast.representation.simclr import SimCLR, train_simclr
from holdfast.representation.space_comparison import compare_spaces, rotate_onto
from holdfast.representation.stationary import StationaryClassifier
from holdfast.representation.stitching import stitch
from holdfast.representation.trust import DistrustScore, Trust
from holdfast.representation.views import AffineViews, PhotoViews

__all__ = [
    "AdaptiveCascade",
    "AdaptiveRetriever",
    "AffineViews",
    "AnchorSet",
    "BCTLoss",
    "CascadePrediction",
    "CategoryModel",
    "CompatibilityMatrix",
    "ConcatRepresentation",
    "DINOLoss",
    "DefinitionCheck",
    "DistilledRepresentation",
    "DistrustScore",
    "EMATeacher",
    "FeatureDistillation",
    "Featurizer",
    "GroupedCenterHead",
    "HOCLoss",
    "HVCMLoss",
    "HalfAndHalfSampler",
    "InnerProductTable",
    "LifelongResult",
    "LifelongTrainer",
    "LinearProbe",
    "MatryoshkaClassifier",
    "MatryoshkaLoss",
    "MatryoshkaPairLoss",
    "MultiCropWrapper",
    "MultiHeadDistillation",
    "PCATruncator",
    "PhotoViews",
    "PrefixCrossEntropy",
    "ProbeHead",
    "RandomSubset",
    "RehearsalBuffer",
    "RelativeClassifier",
    "RelativeEncoder",
    "RichClassifier",
    "SimCLR",
    "StationaryClassifier",
    "Trust",
    "TwoStageFineTune",
    "as_groups",
    "check_definition",
    "compare_spaces",
    "concat_heads",
    "herd",
    "multi_head_distillation_loss",
    "ood",
    "probe_gain",
    "quantize_similarity",
    "random_resized_crops",
    "relative_projection",
    "rotate_onto",
    "snapshots",
    "stitch",
    "stratified_mean",
    "template_accuracy",
    "train_episodes",
    "train_simclr",
]
