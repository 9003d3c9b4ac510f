"""Amortised posteriors whose prior is an input: mixtures in, mixtures out."""

from holdfast.distribution.transformer.baselines import (
    extended_kalman,
    kalman_moment_matched,
    kernel_log_prob,
    particle_filter,
    svi_mixture,
)
from holdfast.distribution.transformer.calibration import CalibrationReport, simulation_based_calibration
from holdfast.distribution.transformer.embedding import (
    BlindPrior,
    ComponentDecoder,
    ComponentEmbedding,
    ParametricPriorEmbedding,
    component_vectors,
    mixture_of_vectors,
)
from holdfast.distribution.transformer.filtering import MixtureFilter, series_log_prob
from holdfast.distribution.transformer.meta_priors import (
    BetaMetaPrior,
    InverseGammaMetaPrior,
    MetaPrior,
    MixtureMetaPrior,
    WishartMixtureMetaPrior,
)
from holdfast.distribution.transformer.model import DistributionTransformer, MappedMixture, prior_blind
from holdfast.distribution.transformer.observations import (
    BearingObservation,
    LinearObservation,
    ObservationModel,
    OutlierObservation,
    RangeObservation,
    TwoLevelObservation,
    VarianceObservation,
)
from holdfast.distribution.transformer.posterior import AmortizedPosterior
from holdfast.distribution.transformer.problem import InferenceProblem, Simulated
from holdfast.distribution.transformer.training import amortised_loss, default_lr, fit_amortised

__all__ = [
    "AmortizedPosterior",
    "BearingObservation",
    "BetaMetaPrior",
    "BlindPrior",
    "CalibrationReport",
    "ComponentDecoder",
    "ComponentEmbedding",
    "DistributionTransformer",
    "InferenceProblem",
    "InverseGammaMetaPrior",
    "LinearObservation",
    "MappedMixture",
    "MetaPrior",
    "MixtureFilter",
    "MixtureMetaPrior",
    "ObservationModel",
    "OutlierObservation",
    "ParametricPriorEmbedding",
    "RangeObservation",
    "Simulated",
    "TwoLevelObservation",
    "VarianceObservation",
    "WishartMixtureMetaPrior",
    "amortised_loss",
    "component_vectors",
    "default_lr",
    "extended_kalman",
    "fit_amortised",
    "kalman_moment_matched",
    "kernel_log_prob",
    "mixture_of_vectors",
    "particle_filter",
    "prior_blind",
    "series_log_prob",
    "simulation_based_calibration",
    "svi_mixture",
]
