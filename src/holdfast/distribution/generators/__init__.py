"""Conditional generators: a law of points for every code."""

from holdfast.distribution.generators.categorical import CategoricalGenerator
from holdfast.distribution.generators.ddpm import CodeAsChannels, ConditionalDDPM
from holdfast.distribution.generators.direct import DirectGenerator
from holdfast.distribution.generators.prefix import PrefixConditioned
from holdfast.distribution.generators.protocol import ConditionalGenerator
from holdfast.distribution.generators.wormhole import WormholeDecoder

__all__ = [
    "CategoricalGenerator",
    "CodeAsChannels",
    "ConditionalDDPM",
    "ConditionalGenerator",
    "DirectGenerator",
    "PrefixConditioned",
    "WormholeDecoder",
]
