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
from holdfast.nn.standardize import Standardize

__all__ = [
    "AUTO",
    "BACKBONES",
    "MLP",
    "SIZES",
    "Attention",
    "BackboneEntry",
    "ConvNet",
    "DeepSets",
    "GraphNet",
    "HashedText",
    "ResNet",
    "SetAttention",
    "Standardize",
    "TransformerBlock",
    "TransformerText",
    "ViT",
    "list_backbones",
    "make_backbone",
]
