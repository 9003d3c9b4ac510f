"""Backbones by modality: raw model input in, one row of features per sample out."""

from holdfast.nn.backbones.convnet import ConvNet, conv_norm, image_stem
from holdfast.nn.backbones.gnn import GraphNet
from holdfast.nn.backbones.make import AUTO, BACKBONES, SIZES, BackboneEntry, list_backbones, make_backbone
from holdfast.nn.backbones.mlp import MLP, FlatInput, Identity, TableInput, embedding_width
from holdfast.nn.backbones.resnet import BasicBlock, ResNet
from holdfast.nn.backbones.sets import DeepSets, SetAttention
from holdfast.nn.backbones.text import HashedText, TransformerText
from holdfast.nn.backbones.vit import ViT

__all__ = [
    "AUTO",
    "BACKBONES",
    "MLP",
    "SIZES",
    "BackboneEntry",
    "BasicBlock",
    "ConvNet",
    "DeepSets",
    "FlatInput",
    "GraphNet",
    "HashedText",
    "Identity",
    "ResNet",
    "SetAttention",
    "TableInput",
    "TransformerText",
    "ViT",
    "conv_norm",
    "embedding_width",
    "image_stem",
    "list_backbones",
    "make_backbone",
]
