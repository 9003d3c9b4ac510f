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
from holdfast.nn.coders import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder
from holdfast.nn.contract import EmbeddingContract, tensor_digest
from holdfast.nn.contrastive import info_nce, nt_xent
from holdfast.nn.feed_forward import feed_forward
from holdfast.nn.gaussian import DiagonalGaussian, gaussian_kl
from holdfast.nn.growing import GrowingClassifier
from holdfast.nn.learner import learner
from holdfast.nn.matryoshka import MatryoshkaHead, check_dims, nesting_dims, truncate_embed
from holdfast.nn.network import Network
from holdfast.nn.objective import Batch, EmpiricalRisk, FitContext, SampleLoss
from holdfast.nn.regressor import NeuralRegressor
from holdfast.nn.sets import (
    AttentionSetEncoder,
    ConvSetEncoder,
    GNNSetEncoder,
    InvarianceReport,
    KernelMeanEncoder,
    MeanEncoder,
    PooledSetCode,
    PooledSetEncoder,
    ResNetAttentionSetEncoder,
    ResNetSetEncoder,
    SetEncoder,
    SumSetEncoder,
    check_distributional_invariance,
    encode_in_chunks,
    pad_sets,
    pooled_mean,
    pooled_median,
    pooled_sum,
)
from holdfast.nn.simplex import FixedSimplexClassifier, simplex_vertices
from holdfast.nn.standardize import Standardize
from holdfast.nn.teacher import EMATeacher

__all__ = [
    "AUTO",
    "BACKBONES",
    "MLP",
    "SIZES",
    "Attention",
    "AttentionSetEncoder",
    "BackboneEntry",
    "Batch",
    "ConvDecoder",
    "ConvEncoder",
    "ConvNet",
    "ConvSetEncoder",
    "DeepSets",
    "DiagonalGaussian",
    "EMATeacher",
    "EmbeddingContract",
    "EmpiricalRisk",
    "FitContext",
    "FixedSimplexClassifier",
    "GNNSetEncoder",
    "GraphNet",
    "GrowingClassifier",
    "HashedText",
    "InvarianceReport",
    "KernelMeanEncoder",
    "MLPDecoder",
    "MLPEncoder",
    "MatryoshkaHead",
    "MeanEncoder",
    "Network",
    "NeuralClassifier",
    "NeuralRegressor",
    "PooledSetCode",
    "PooledSetEncoder",
    "ResNet",
    "ResNetAttentionSetEncoder",
    "ResNetSetEncoder",
    "SampleLoss",
    "SetAttention",
    "SetEncoder",
    "Standardize",
    "SumSetEncoder",
    "TransformerBlock",
    "TransformerText",
    "ViT",
    "check_dims",
    "check_distributional_invariance",
    "encode_in_chunks",
    "feed_forward",
    "gaussian_kl",
    "info_nce",
    "learner",
    "list_backbones",
    "make_backbone",
    "nesting_dims",
    "nt_xent",
    "pad_sets",
    "pooled_mean",
    "pooled_median",
    "pooled_sum",
    "simplex_vertices",
    "tensor_digest",
    "truncate_embed",
]
