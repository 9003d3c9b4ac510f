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
from holdfast.nn.contract import EmbeddingContract, tensor_digest
from holdfast.nn.growing import GrowingClassifier
from holdfast.nn.learner import Batch, FitContext, NeuralClassifier, NeuralRegressor, learner
from holdfast.nn.matryoshka import MatryoshkaHead, check_dims, nesting_dims, truncate_embed
from holdfast.nn.network import Network
from holdfast.nn.simplex import FixedSimplexClassifier, simplex_vertices
from holdfast.nn.standardize import Standardize

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
    "EmbeddingContract",
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
    "SetAttention",
    "Standardize",
    "TransformerBlock",
    "TransformerText",
    "ViT",
    "check_dims",
    "learner",
    "list_backbones",
    "make_backbone",
    "nesting_dims",
    "simplex_vertices",
    "tensor_digest",
    "truncate_embed",
]
