"""The study that runs when nothing is asked for: scikit-learn's handwritten digits, shifted in two ways."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.study.spec import StudySpec, parse_spec

__all__ = ["DEFAULT_METHODS", "DEFAULT_STUDY", "default_study"]

DEFAULT_METHODS = ("erm", "groupdro", "coral", "vrex", "mixup", "dann", "relative")

DEFAULT_STUDY: Mapping[str, Any] = {
    "name": "digits",
    "settings": [
        {
            # Extrapolation: trained on angles between, tested beyond either end.
            "name": "rotated-digits",
            "data": {"named": "sklearn-digits"},
            "shift": {"name": "rotation", "params": {"angles": [0, 15, 30, 45, 60, 75]}},
            "hold_out": ["rotation=0", "rotation=75"],
        },
        {
            # The colour goes with the class, nearly always in one training environment and often in the other, and
            # against it in the environment that is held out.
            "name": "coloured-digits",
            "data": {"named": "sklearn-digits"},
            "shift": {"name": "spurious-colour", "params": {"strengths": [0.99, 0.6, 0.1]}},
            "hold_out": ["strength=0.1"],
        },
    ],
    "methods": list(DEFAULT_METHODS),
    "seeds": 3,
    "steps": 150,
    "params": {"lr": 0.003},
}


def default_study(overrides: Mapping[str, Any] | None = None) -> StudySpec:
    """Return the default study with some fields replaced.

    Examples:
        >>> [s.name for s in default_study({"seeds": 1}).settings]
        ['rotated-digits', 'coloured-digits']
    """
    return parse_spec(dict(DEFAULT_STUDY) | dict(overrides or {}))
