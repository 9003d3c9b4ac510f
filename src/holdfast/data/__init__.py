"""Data: environments, readers, named data sets, shifts and procedural worlds."""

from holdfast.data.counts import log_counts
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
from holdfast.data.shifts import CORRUPTIONS, SHIFTS, apply_shift, corrupt, shift_parameters
from holdfast.data.worlds import coloured_shapes, gaussian_environments

__all__ = [
    "CORRUPTIONS",
    "SHIFTS",
    "DataError",
    "DataWarning",
    "EnvironmentBatch",
    "EnvironmentLoader",
    "Environments",
    "apply_shift",
    "coloured_shapes",
    "column_types",
    "corrupt",
    "describe_named",
    "gaussian_environments",
    "is_local",
    "iter_images",
    "iter_table",
    "list_named",
    "load_images",
    "load_named",
    "log_counts",
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
    "shift_parameters",
]
