"""Models for serving: a program that runs without the Python code that made it."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from holdfast.core.checks import check_choice

__all__ = ["export"]

_SUFFIXES = {"torch_export": ".pt2", "onnx": ".onnx"}


def export(
    module: nn.Module,
    example_inputs: tuple[Any, ...],
    path: str | os.PathLike[str],
    format: Literal["torch_export", "onnx"] = "torch_export",
    dynamic_batch: bool = True,
) -> Path:
    """Write ``module`` as a program of tensor operations, in evaluation mode, and return its path.

    Args:
        module: maps the inputs to a tensor, or to tuples, lists or mappings of tensors.
        example_inputs: one entry per argument of ``forward``: a tensor, or tuples, lists or mappings of tensors.
        path: where to; without a suffix, ``.pt2`` or ``.onnx`` is added.
        format: "torch_export" (``torch.export.load(path).module()``) or "onnx" (``pip install "holdfast[onnx]"``).
        dynamic_batch: whether the first axis of all inputs may have any length from 1 on; otherwise the example's.

    Raises:
        ImportError: for "onnx" without its packages.
        ValueError: if the module branches on values or fixes the batch size, so that no program can be made, or
            if the program's output differs from the module's.

    Examples:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     where = export(nn.Linear(3, 2), (torch.zeros(2, 3),), Path(folder) / "model")
        ...     program = torch.export.load(where).module()
        ...     where.name, tuple(program(torch.zeros(5, 3)).shape)
        ('model.pt2', (5, 2))
    """
    check_choice("format", format, list(_SUFFIXES))
    if not isinstance(example_inputs, tuple) or not example_inputs:
        raise TypeError(f"example_inputs must be a tuple of arguments, got {type(example_inputs).__name__}")
    leaves = tree_leaves(example_inputs)
    if not all(isinstance(t, Tensor) and t.ndim > 0 for t in leaves) or len({len(t) for t in leaves}) > 1:
        raise ValueError("every example input must be a tensor with the batch as first axis, all of one length")
    if len(leaves[0]) == 0:
        raise ValueError("example inputs must hold at least one row")
    if format == "onnx":
        missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
        if missing:
            raise ImportError(f'format="onnx" needs {" and ".join(missing)}: pip install "holdfast[onnx]"')
    path = Path(path)
    if not path.suffix:
        path = path.with_suffix(_SUFFIXES[format])
    path.parent.mkdir(parents=True, exist_ok=True)
    if dynamic_batch and len(leaves[0]) == 1:
        # The tracer takes an axis of length one for a constant.
        example_inputs = tree_map(lambda t: torch.cat([t, t]), example_inputs)

    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            _write(module, example_inputs, path, format, dynamic_batch)
    finally:
        for m, training in modes:
            m.training = training
    return path


def _write(module: nn.Module, inputs: tuple[Any, ...], path: Path, format: str, dynamic: bool) -> None:
    shapes = None
    if dynamic:
        batch = torch.export.Dim("batch", min=1)
        shapes = tree_map(lambda t: {0: batch}, inputs)
    try:
        program = torch.export.export(module, inputs, dynamic_shapes=shapes)
    except Exception as error:  # the tracer raises many kinds
        raise ValueError(
            f"{type(module).__name__} cannot be turned into a program"
            f"{' for any batch size' if dynamic else ''}: {_first_lines(error)}"
        ) from error
    larger = tree_map(lambda t: torch.cat([t, t, t[:1]]), inputs) if dynamic else inputs
    for example in (inputs, larger):
        _compare(module(*example), program.module()(*example))
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        made = Path(folder) / f"model{_SUFFIXES[format]}"
        if format == "torch_export":
            torch.export.save(program, made)
        else:
            # External data would put the weights into a second file.
            torch.onnx.export(program, (), str(made), dynamo=True, external_data=False, verbose=False)
        os.replace(made, path)


def _compare(expected: Any, got: Any) -> None:
    for a, b in zip(tree_leaves(expected), tree_leaves(got), strict=True):
        if isinstance(a, Tensor) and not torch.allclose(a, b, rtol=1e-5, atol=1e-6, equal_nan=True):
            gap = float((a - b).abs().max())
            raise ValueError(f"the exported program differs from the module by {gap:.3g}; does forward draw numbers?")


def _first_lines(error: Exception) -> str:
    return " ".join(str(error).strip().splitlines()[:3])
