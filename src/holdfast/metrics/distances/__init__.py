"""Distances of two laws as differentiable tensor functions: of batches of point sets, of Gaussians, of mixtures."""

from holdfast.metrics.distances.exact import exact_transport
from holdfast.metrics.distances.gaussian import gaussian_geodesic, gaussian_transport
from holdfast.metrics.distances.kernel import energy_discrepancy, kernel_discrepancy
from holdfast.metrics.distances.mixture import GaussianComponents, GaussianMixtureLike, gmm_plan, gmm_w2
from holdfast.metrics.distances.point_sets import mean_squared_distance, median_distance
from holdfast.metrics.distances.sinkhorn import sinkhorn_divergence
from holdfast.metrics.distances.sliced import sliced_transport

__all__ = [
    "GaussianComponents",
    "GaussianMixtureLike",
    "energy_discrepancy",
    "exact_transport",
    "gaussian_geodesic",
    "gaussian_transport",
    "gmm_plan",
    "gmm_w2",
    "kernel_discrepancy",
    "mean_squared_distance",
    "median_distance",
    "sinkhorn_divergence",
    "sliced_transport",
]
