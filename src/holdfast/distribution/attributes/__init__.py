"""Generators that are told attributes: what they are asked for, how they are trained, judged and used."""

from holdfast.distribution.attributes.baselines import DeterministicRegressor, GaussianStochasticNet, NoCondition
from holdfast.distribution.attributes.choice import BetaChoice, BetaTrial, choose_beta
from holdfast.distribution.attributes.embedding import AttributeEmbedding
from holdfast.distribution.attributes.estimator import AttributeGenerator
from holdfast.distribution.attributes.judge import (
    AttributeAccuracy,
    AttributeJudge,
    attribute_accuracy,
    frechet_feature_distance,
)
from holdfast.distribution.attributes.measures import (
    CompositionalSplit,
    Leakage,
    compositional_split,
    diversity_ratio,
    leakage,
)
from holdfast.distribution.attributes.training import train_attributes

__all__ = [
    "AttributeAccuracy",
    "AttributeEmbedding",
    "AttributeGenerator",
    "AttributeJudge",
    "BetaChoice",
    "BetaTrial",
    "CompositionalSplit",
    "DeterministicRegressor",
    "GaussianStochasticNet",
    "Leakage",
    "NoCondition",
    "attribute_accuracy",
    "choose_beta",
    "compositional_split",
    "diversity_ratio",
    "frechet_feature_distance",
    "leakage",
    "train_attributes",
]
