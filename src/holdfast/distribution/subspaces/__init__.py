"""Laws on a few low-dimensional subspaces: their exact denoiser, and subspaces fitted by denoising."""

from holdfast.distribution.subspaces.clustering import KSubspaces, clustering_objective, k_subspaces
from holdfast.distribution.subspaces.comparison import SubspaceChange, compare_subspaces
from holdfast.distribution.subspaces.denoiser import LowRankMixtureDenoiser
from holdfast.distribution.subspaces.dimensions import DimensionEstimate, estimate_dims
from holdfast.distribution.subspaces.estimator import SubspaceClustering
from holdfast.distribution.subspaces.fit import SubspaceFit, fit_subspace_denoiser, recovery
from holdfast.distribution.subspaces.mixture import MixtureOfLowRankGaussians, random_subspaces
from holdfast.distribution.subspaces.worlds import SubspaceSamples, make_subspace_samples

__all__ = [
    "DimensionEstimate",
    "KSubspaces",
    "LowRankMixtureDenoiser",
    "MixtureOfLowRankGaussians",
    "SubspaceChange",
    "SubspaceClustering",
    "SubspaceFit",
    "SubspaceSamples",
    "clustering_objective",
    "compare_subspaces",
    "estimate_dims",
    "fit_subspace_denoiser",
    "k_subspaces",
    "make_subspace_samples",
    "random_subspaces",
    "recovery",
]
