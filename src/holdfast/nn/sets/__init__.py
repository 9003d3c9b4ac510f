"""Set encoders: codes of a set that depend on its empirical distribution alone."""

from holdfast.nn.sets.attention import AttentionSetEncoder, ResNetAttentionSetEncoder
from holdfast.nn.sets.control import SumSetEncoder
from holdfast.nn.sets.convolutional import ConvSetEncoder
from holdfast.nn.sets.gnn import GNNSetEncoder, ResNetSetEncoder
from holdfast.nn.sets.invariance import InvarianceReport, check_distributional_invariance
from holdfast.nn.sets.kernel_mean import KernelMeanEncoder, MeanEncoder, median_bandwidth
from holdfast.nn.sets.padding import encode_in_chunks, pad_sets
from holdfast.nn.sets.pooling import Pool, pooled_mean, pooled_median, pooled_sum
from holdfast.nn.sets.protocol import PooledSetEncoder, SetEncoder, check_sets
from holdfast.nn.sets.subset_code import PooledSetCode

__all__ = [
    "AttentionSetEncoder",
    "ConvSetEncoder",
    "GNNSetEncoder",
    "InvarianceReport",
    "KernelMeanEncoder",
    "MeanEncoder",
    "Pool",
    "PooledSetCode",
    "PooledSetEncoder",
    "ResNetAttentionSetEncoder",
    "ResNetSetEncoder",
    "SetEncoder",
    "SumSetEncoder",
    "check_distributional_invariance",
    "check_sets",
    "encode_in_chunks",
    "median_bandwidth",
    "pad_sets",
    "pooled_mean",
    "pooled_median",
    "pooled_sum",
]
