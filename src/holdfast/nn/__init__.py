"""Network parts: backbones by modality, standardisation, attention, heads that several methods share."""

from holdfast.nn.attention import Attention, TransformerBlock
from holdfast.nn.backbones import (
    AUTO,
    BACKBONES,
    MLP,
    SIZES,
    BackboneEntry,
    ConvNet,
    DeepSets,
    GraphNet,
    HashedText,
    ResNet,
    SetAttention,
    TransformerText,
    ViT,
    list_backbones,
    make_backbone,
)
from holdfast.nn.classifier import NeuralClassifier
from holdfast.nn.contract import EmbeddingContract, tensor_digest
from holdfast.nn.contrastive import info_nce, nt_xent
from holdfast.nn.growing import GrowingClassifier
from holdfast.nn.learner import learner
from holdfast.nn.matryoshka import MatryoshkaHead, check_dims, nesting_dims, truncate_embed
from holdfast.nn.network import Network
from holdfast.nn.objective import Batch, EmpiricalRisk, FitContext, SampleLoss
from holdfast.nn.regressor import NeuralRegressor
from holdfast.nn.simplex import FixedSimplexClassifier, simplex_vertices
from holdfast.nn.standardize import Standardize
from holdfast.nn.teacher import EMATeacher

__all__ = [
    "AUTO",
    "BACKBONES",
    "MLP",
    "SIZES",
    "Attention",
    "BackboneEntry",
    "Batch",
    "ConvNet",
    "DeepSets",
    "EMATeacher",
    "EmbeddingContract",
    "EmpiricalRisk",
    "FitContext",
    "FixedSimplexClassifier",
    "GraphNet",
    "GrowingClassifier",
    "HashedText",
    "MatryoshkaHead",
    "Network",
    "NeuralClassifier",
    "NeuralRegressor",
    "ResNet",
    "SampleLoss",
    "SetAttention",
    "Standardize",
    "TransformerBlock",
    "TransformerText",
    "ViT",
    "check_dims",
    "info_nce",
    "learner",
    "list_backbones",
    "make_backbone",
    "nesting_dims",
    "nt_xent",
    "simplex_vertices",
    "tensor_digest",
    "truncate_embed",
]
