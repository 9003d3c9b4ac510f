"""Procedural data: worlds whose truth is known."""

from holdfast.data.worlds.faces import (
    FACE_ATTRIBUTES,
    FACE_FACTORS,
    AttributeFaces,
    draw_faces,
    make_attribute_faces,
)
from holdfast.data.worlds.gaussian import gaussian_environments, invariant_accuracy, spurious_accuracy
from holdfast.data.worlds.interventions import LinearActionSCM, simulate_linear_action_scm
from holdfast.data.worlds.shapes import SHAPES, coloured_shapes, render_shapes

__all__ = [
    "FACE_ATTRIBUTES",
    "FACE_FACTORS",
    "SHAPES",
    "AttributeFaces",
    "LinearActionSCM",
    "coloured_shapes",
    "draw_faces",
    "gaussian_environments",
    "invariant_accuracy",
    "make_attribute_faces",
    "render_shapes",
    "simulate_linear_action_scm",
    "spurious_accuracy",
]
