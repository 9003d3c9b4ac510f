"""Data: environments, readers, named data sets, shifts and procedural worlds."""

from holdfast.data.environments import Environments
from holdfast.data.errors import DataError, DataWarning
from holdfast.data.loader import EnvironmentBatch, EnvironmentLoader

__all__ = [
    "DataError",
    "DataWarning",
    "EnvironmentBatch",
    "EnvironmentLoader",
    "Environments",
]
