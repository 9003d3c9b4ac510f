"""Likelihood fits where data have no density: noise is added before, and left out after."""

from holdfast.distribution.singular.choice import PerturbationChoice, generation_error, select_perturbation
from holdfast.distribution.singular.encoder import GaussianEncoder
from holdfast.distribution.singular.estimator import PerturbedGenerator
from holdfast.distribution.singular.fit import LikelihoodFit, fit_likelihood
from holdfast.distribution.singular.generator import LatentGaussianGenerator
from holdfast.distribution.singular.latents import Charts, CircleLatent, Latent, NormalLatent, UniformLatent
from holdfast.distribution.singular.perturbation import PerturbedData, data_scale, perturb
from holdfast.distribution.singular.rates import (
    effective_smoothness,
    hellinger_rate,
    perturbation_level,
    perturbation_rate,
)
from holdfast.distribution.singular.report import SingularityReport, singularity_report
from holdfast.distribution.singular.worlds import make_space_curve

__all__ = [
    "Charts",
    "CircleLatent",
    "GaussianEncoder",
    "Latent",
    "LatentGaussianGenerator",
    "LikelihoodFit",
    "NormalLatent",
    "PerturbationChoice",
    "PerturbedData",
    "PerturbedGenerator",
    "SingularityReport",
    "UniformLatent",
    "data_scale",
    "effective_smoothness",
    "fit_likelihood",
    "generation_error",
    "hellinger_rate",
    "make_space_curve",
    "perturb",
    "perturbation_level",
    "perturbation_rate",
    "select_perturbation",
    "singularity_report",
]
