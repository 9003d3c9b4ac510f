"""Out-of-distribution detectors with one protocol, on precomputed features."""

from holdfast.representation.ood.distance import KNN, Mahalanobis, ViM
from holdfast.representation.ood.grouped import GroupedGaussian
from holdfast.representation.ood.protocol import OODDetector
from holdfast.representation.ood.softmax import MSP, Energy, MaxLogit

__all__ = ["DETECTORS", "KNN", "MSP", "Energy", "GroupedGaussian", "Mahalanobis", "MaxLogit", "OODDetector", "ViM"]

DETECTORS: dict[str, type[OODDetector]] = {
    "msp": MSP,
    "max-logit": MaxLogit,
    "energy": Energy,
    "mahalanobis": Mahalanobis,
    "knn": KNN,
    "vim": ViM,
    "grouped-gaussian": GroupedGaussian,
}
"""Every detector by its name on the command line."""
