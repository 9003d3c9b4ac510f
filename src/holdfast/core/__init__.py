"""The ground floor: estimators, the training loop, random state, input checks, saving."""

from holdfast.core.batching import BatchPlan
from holdfast.core.estimator import Classifier, Estimator, Regressor
from holdfast.core.inputs import InputEncoder
from holdfast.core.saving import ModelFileError, load, save
from holdfast.core.signature import InputSignature
from holdfast.core.training import NonFiniteLossError, StepInfo, TrainResult, train

__all__ = [
    "BatchPlan",
    "Classifier",
    "Estimator",
    "InputEncoder",
    "InputSignature",
    "ModelFileError",
    "NonFiniteLossError",
    "Regressor",
    "StepInfo",
    "TrainResult",
    "load",
    "save",
    "train",
]
