"""The study that runs when nothing is asked for: handwritten digits that ship with scikit-learn, shifted in two ways."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.study.spec import StudySpec, parse_spec

__all__ = ["DEFAULT_METHODS", "DEFAULT_STUDY", "default_study"]

DEFAULT_METHODS = ("erm", "groupdro", "coral", "irm", "vrex", "mixup", "dann")

DEFAULT_STUDY: Mapping[str, Any] = {
    "name": "digits",
    "settings": [],
    "methods": list(DEFAULT_METHODS),
    "seeds": 3,
}


def default_study(overrides: Mapping[str, Any] | None = None) -> StudySpec:
    """Return the default study with some fields replaced."""
    return parse_spec(dict(DEFAULT_STUDY) | dict(overrides or {}))
