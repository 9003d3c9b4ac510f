"""The main job: a study of methods on environments held out, its report, and a model to ship with its trust."""

from __future__ import annotations

from holdfast.study.bundle import Bundle
from holdfast.study.default import DEFAULT_METHODS, default_study
from holdfast.study.methods import METHODS
from holdfast.study.predict import predict_stream
from holdfast.study.report import render_report, write_report
from holdfast.study.runner import Finished, Progress, open_study, run_study
from holdfast.study.spec import SpecError, StudySpec, load_spec, parse_spec
from holdfast.study.store import Store
from holdfast.study.study import Study

__all__ = [
    "DEFAULT_METHODS",
    "METHODS",
    "Bundle",
    "Finished",
    "Progress",
    "SpecError",
    "Store",
    "Study",
    "StudySpec",
    "default_study",
    "load_spec",
    "open_study",
    "parse_spec",
    "predict_stream",
    "render_report",
    "run_study",
    "write_report",
]
