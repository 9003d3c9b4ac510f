"""Data: environments, readers, named data sets, shifts and procedural worlds."""

from holdfast.data.environments import Environments
from holdfast.data.errors import DataError, DataWarning
from holdfast.data.loader import EnvironmentBatch, EnvironmentLoader
from holdfast.data.named import describe_named, is_local, list_named, load_named, named_file, named_options
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
    "describe_named",
    "is_local",
    "iter_images",
    "iter_table",
    "list_named",
    "load_images",
    "load_named",
    "named_file",
    "named_options",
    "read",
    "read_frame",
    "read_graphs",
    "read_images",
    "read_manifest",
    "read_npz",
    "read_table",
    "read_text",
]
