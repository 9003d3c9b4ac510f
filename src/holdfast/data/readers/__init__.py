"""Readers: files and folders as :class:`holdfast.data.Environments`."""

from holdfast.data.readers.graphs import read_graphs
from holdfast.data.readers.images import iter_images, load_images, read_images
from holdfast.data.readers.manifest import read_manifest
from holdfast.data.readers.npz import read_npz
from holdfast.data.readers.pick import read
from holdfast.data.readers.stream import column_types, iter_table
from holdfast.data.readers.table import read_frame, read_table
from holdfast.data.readers.text import read_text

__all__ = [
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
