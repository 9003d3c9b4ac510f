"""Codes of laws: a set encoder and a conditional generator, trained together."""

from holdfast.distribution.embedding.agreement import Agreement, distance_agreement
from holdfast.distribution.embedding.estimator import DistributionEmbedding
from holdfast.distribution.embedding.gde import GDE, interpolate_codes
from holdfast.distribution.embedding.judge import fidelity, parts_of
from holdfast.distribution.embedding.mixing import SetMixer, sets_from_labels
from holdfast.distribution.embedding.scaling import PointScaling
from holdfast.distribution.embedding.sets import SetSource, SetTable
from holdfast.distribution.embedding.training import train_embedding
from holdfast.distribution.embedding.worlds import (
    GaussianLaws,
    PoissonLaws,
    make_planar_gaussians,
    make_rotated_gaussians,
)

__all__ = [
    "GDE",
    "Agreement",
    "DistributionEmbedding",
    "GaussianLaws",
    "PointScaling",
    "PoissonLaws",
    "SetMixer",
    "SetSource",
    "SetTable",
    "distance_agreement",
    "fidelity",
    "interpolate_codes",
    "make_planar_gaussians",
    "make_rotated_gaussians",
    "parts_of",
    "sets_from_labels",
    "train_embedding",
]
