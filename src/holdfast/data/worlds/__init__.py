"""Procedural data: worlds whose truth is known."""

from holdfast.data.worlds.gaussian import gaussian_environments, invariant_accuracy, spurious_accuracy
from holdfast.data.worlds.shapes import SHAPES, coloured_shapes, render_shapes

__all__ = [
    "SHAPES",
    "coloured_shapes",
    "gaussian_environments",
    "invariant_accuracy",
    "render_shapes",
    "spurious_accuracy",
]
