"""Data: environments, readers, named data sets, shifts and procedural worlds."""

from holdfast.data.environments import Environments
from holdfast.data.errors import DataError, DataWarning
from holdfast.data.loader import EnvironmentBatch, EnvironmentLoader
from holdfast.data.readers import (
    column_types,
    iter_images,
    iter_table,
    load_images,
    read,
    read_frame,
    read_graphs,
    read_images,
    read_manifest,
    read_npz,
    read_table,
    read_text,
)

__all__ = [
    "DataError",
    "DataWarning",
    "EnvironmentBatch",
    "EnvironmentLoader",
    "Environments",
    "column_types",
    "iter_images",
    "iter_table",
    "load_images",
    "read",
    "read_frame",
    "read_graphs",
    "read_images",
    "read_manifest",
    "read_npz",
    "read_table",
    "read_text",
]
