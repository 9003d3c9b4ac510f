"""Graphs with a label and an environment each, as ``torch_geometric`` data (extra ``holdfast[graph]``)."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from holdfast.data.environments import Environments
from holdfast.data.errors import DataError, suggest
from holdfast.data.labels import Task
from holdfast.data.readers.columns import environment_codes, label_values, warn_absent
from holdfast.data.readers.frames import check_file, file_type
from holdfast.data.readers.npz import load_archive

__all__ = ["read_graphs"]


def read_graphs(
    source: str | Path | Sequence[Any],
    *,
    label: str = "y",
    environment: str | None = "environment",
    attributes: Sequence[str] = (),
    task: Task | None = None,
) -> Environments:
    """Read graphs from a file, or from a ``torch_geometric`` data set or list of ``Data``.

    Files are either JSON lines, one graph a line with ``edge_index`` (2, E), node features ``x`` (nodes, d), the
    label and the environment; or ``.npz`` with all graphs one after another: ``x`` (N, d), ``node_offsets``
    (n + 1,), ``edge_index`` (2, M) counted from each graph's first node, ``edge_offsets`` (n + 1,), the label
    and the environment (n,); or ``.pt`` with a list of ``Data`` (read with ``weights_only=True``, so no code runs).
    Edge features are ``edge_attr``, where there are any. Node features may be left out: degrees are used.

    Args:
        source: the file or the graphs.
        label, environment, attributes: names of the entries of every graph.
        task: ``"classification"`` or ``"regression"`` where the label leaves it open.

    Raises:
        ImportError: without ``torch_geometric``, naming the extra.
        DataError: for a graph that lacks an entry, or an edge to a node that is not there, with its row.
    """
    data_class = _data_class()
    name = str(source) if isinstance(source, (str, Path)) else "the graphs"
    if isinstance(source, (str, Path)):
        records = _records(check_file(source))
    else:
        records = [_record(g) for g in source]
    if not records:
        raise DataError(f"{name}: there are no graphs")
    graphs = [_graph(r, i, name, data_class) for i, r in enumerate(records)]
    y = label_values(_entries(records, label, name), name, label, task)
    codes, names = None, None
    if environment is not None:
        codes, names = environment_codes(_entries(records, environment, name), name, environment)
    kept = {a: _entries(records, a, name).to_numpy() for a in attributes}
    return warn_absent(Environments.from_arrays(graphs, y, codes, kept, names=names, kind="graphs"), name)


def _data_class() -> Any:
    try:
        from torch_geometric.data import Data
    except ImportError as e:
        raise ImportError("reading graphs needs torch_geometric: pip install 'holdfast[graph]'") from e
    return Data


def _record(graph: Any) -> dict[str, Any]:
    if isinstance(graph, dict):
        return graph
    if not hasattr(graph, "to_dict"):
        raise DataError(f"expected torch_geometric data or dictionaries, got {type(graph).__name__}")
    return graph.to_dict()


def _records(path: Path) -> list[dict[str, Any]]:
    kind = file_type(path)
    if kind in ("jsonl", "json"):
        from holdfast.data.readers.frames import _read_json

        return _read_json(path, kind).to_pylist()
    if kind == ".npz":
        return _unpack(load_archive(path), path)
    if kind in (".pt", ".pth"):
        from torch_geometric.data import data, storage

        allowed = [data.Data, data.DataEdgeAttr, data.DataTensorAttr, storage.GlobalStorage]
        try:
            with torch.serialization.safe_globals(allowed):
                return [_record(g) for g in torch.load(path, weights_only=True)]
        except (pickle.UnpicklingError, RuntimeError, EOFError, TypeError) as e:
            raise DataError(f"{path} is no list of torch_geometric Data that can be read safely: {e}") from e
    raise DataError(f"{path}: expected a .jsonl, .npz or .pt file of graphs")


def _unpack(arrays: dict[str, np.ndarray], path: Path) -> list[dict[str, Any]]:
    for need in ("edge_index", "edge_offsets", "node_offsets"):
        if need not in arrays:
            raise DataError(f"{path.name} has no array {need!r}{suggest(need, arrays)}")
    nodes, edges = arrays["node_offsets"], arrays["edge_offsets"]
    n = len(nodes) - 1
    cut = {"edge_index": (edges, 1), "edge_attr": (edges, 0), "x": (nodes, 0), "pos": (nodes, 0)}
    pieces: dict[str, Any] = {"num_nodes": np.diff(nodes).tolist()}
    for key, value in arrays.items():
        if key in ("node_offsets", "edge_offsets"):
            continue
        if key in cut:
            offsets, axis = cut[key]
            pieces[key] = np.split(value, offsets[1:-1], axis=axis)
        elif len(value) == n:
            pieces[key] = value.tolist()
    return [{k: v[i] for k, v in pieces.items()} for i in range(n)]


def _graph(record: dict[str, Any], row: int, source: str, data_class: Any) -> Any:
    if record.get("edge_index") is None:
        raise DataError(f"{source}, row {row}: the graph has no edge_index{suggest('edge_index', record)}")
    edges = torch.as_tensor(np.asarray(record["edge_index"]), dtype=torch.int64)
    edges = edges.reshape(2, 0) if edges.numel() == 0 else edges
    if edges.ndim != 2 or edges.shape[0] != 2:
        raise DataError(f"{source}, row {row}: edge_index must have shape (2, edges), got {tuple(edges.shape)}")
    count = record.get("num_nodes")
    if record.get("x") is not None:
        x = torch.as_tensor(np.asarray(record["x"]), dtype=torch.float32)
        x = x[:, None] if x.ndim == 1 else x
    else:
        size = int(count) if count is not None else int(edges.max()) + 1 if edges.numel() else 1
        x = torch.bincount(edges[1].clamp(0, size - 1), minlength=size).float()[:, None]
    if edges.numel() and (int(edges.min()) < 0 or int(edges.max()) >= len(x)):
        bad = int(edges.max()) if int(edges.max()) >= len(x) else int(edges.min())
        raise DataError(f"{source}, row {row}: an edge names node {bad}, but the graph has {len(x)} nodes")
    more = {
        k: torch.as_tensor(np.asarray(record[k]), dtype=torch.float32)
        for k in ("edge_attr", "pos")
        if record.get(k) is not None
    }
    return data_class(x=x, edge_index=edges, **more)


def _entries(records: list[dict[str, Any]], key: str, source: str) -> pa.ChunkedArray:
    values = []
    for i, r in enumerate(records):
        if key not in r or r[key] is None:
            raise DataError(f"{source}, row {i}: the graph has no {key!r}{suggest(key, r)}")
        v = r[key]
        if isinstance(v, (torch.Tensor, np.ndarray, list)):
            flat = np.asarray(v).reshape(-1)
            if flat.size != 1:
                raise DataError(f"{source}, row {i}: {key!r} must be one value for the graph, got {flat.size}")
            v = flat[0]
        values.append(v.item() if isinstance(v, np.generic) else v)
    try:
        return pa.chunked_array([pa.array(values)])
    except pa.ArrowException as e:
        raise DataError(f"{source}: {key!r} mixes types: {e}") from e
