"""Conditional generators: a law of points for every code."""

from holdfast.distribution.generators.categorical import CategoricalGenerator
from holdfast.distribution.generators.cvae import ConditionalVAE, Divergence
from holdfast.distribution.generators.ddpm import CodeAsChannels, ConditionalDDPM
from holdfast.distribution.generators.direct import DirectGenerator
from holdfast.distribution.generators.likelihood import (
    BernoulliLikelihood,
    DiscretisedLikelihood,
    GaussianLikelihood,
    Likelihood,
    make_likelihood,
)
from holdfast.distribution.generators.prefix import PrefixConditioned
from holdfast.distribution.generators.prior import AttributePrior, LatentLaw, MixtureLaw
from holdfast.distribution.generators.protocol import ConditionalGenerator
from holdfast.distribution.generators.wormhole import WormholeDecoder

__all__ = [
    "AttributePrior",
    "BernoulliLikelihood",
    "CategoricalGenerator",
    "CodeAsChannels",
    "ConditionalDDPM",
    "ConditionalGenerator",
    "ConditionalVAE",
    "DirectGenerator",
    "DiscretisedLikelihood",
    "Divergence",
    "GaussianLikelihood",
    "LatentLaw",
    "Likelihood",
    "MixtureLaw",
    "PrefixConditioned",
    "WormholeDecoder",
    "make_likelihood",
]
