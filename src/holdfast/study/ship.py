"""The last step of a study: the chosen method, trained on all environments, saved with its trust part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from holdfast.core.estimator import Estimator
from holdfast.core.random import spawn_seed
from holdfast.data import Environments
from holdfast.representation.trust import DistrustScore
from holdfast.study.bundle import INFO, Bundle, BundleInfo, column_kinds, digest, read_info, write_info
from holdfast.study.load import reading_options
from holdfast.study.measure import one_thread
from holdfast.study.methods import build
from holdfast.study.spec import StudySpec

__all__ = ["fit_bundle", "ship_model"]

_ROWS = 20000


def ship_model(
    spec: StudySpec, setting: Mapping[str, Any], data: Environments, folder: Path, *, versions: Mapping[str, str]
) -> tuple[Path | None, str]:
    """Train and save the model that a setting's verdict names; return its folder, or ``None`` with the reason.

    A folder that already holds the same model is left as it is.
    """
    found = setting["verdict"]
    if found is None:
        return None, "no method finished"
    method = spec.method(found["method"])
    row = next(r for r in setting["methods"] if r["method"] == found["method"])
    params = row["final"]["params"]
    origin = digest(
        data=setting["fingerprint"], method=method.name, params=params, seed=spec.seeds[0], part=spec.validation
    )
    expect = [s for s in (found["sentence"], found["expect"], found["distrust"]) if s]
    if not issubclass(type(build(method.name, params, random_state=0)), Estimator):
        return None, f"{method.name} is no holdfast estimator, so it cannot be saved"
    own = next(s for s in spec.settings if s.name == setting["name"])
    info = BundleInfo(
        study=spec.name,
        setting=setting["name"],
        kind=data.kind,
        shape=list(data.x.shape[1:]) if isinstance(data.x, np.ndarray) else [],
        columns=column_kinds(data.x) if isinstance(data.x, pd.DataFrame) else {},
        reading=reading_options(own.data),
        method={"name": method.name, "params": params, "seed": spec.seeds[0]},
        classes=[str(c) for c in data.classes],
        environments=list(data.names),
        expect=expect,
        selection=spec.selection,
        origin=origin,
        versions=dict(versions),
    )
    if (folder / INFO).is_file() and (old := read_info(folder)).origin == origin:
        write_info(folder, replace(info, no_trust=old.no_trust))
        return folder, ""
    bundle = fit_bundle(method.name, params, data, info, seed=spec.seeds[0], validation=spec.validation)
    return bundle.save(folder), ""


def fit_bundle(
    method: str, params: Mapping[str, Any], data: Environments, info: BundleInfo, *, seed: int, validation: float
) -> Bundle:
    """Train on all environments, keeping the part ``validation`` of each to calibrate the distrust score."""
    fit, kept = data.split(validation, seed=spawn_seed(seed, "validation"))
    with one_thread():
        model = build(method, params, random_state=spawn_seed(seed, "model"))
        x, y, environment = fit.pooled()
        model.fit(x, y, environment=environment)
        few = _few(fit, seed)
        try:
            trust = DistrustScore().fit(
                model.transform(few.x),
                few.y,
                few.environment_names,
                calibration_features=model.transform(kept.x),
                calibration_environment=kept.environment_names,
            )
        except ValueError as error:
            return Bundle(model, None, replace(info, no_trust=str(error)))
    return Bundle(model, trust, info)


def _few(part: Environments, seed: int) -> Environments:
    if len(part) <= _ROWS:
        return part
    rng = np.random.default_rng(spawn_seed(seed, "fit"))
    return part.subset(np.sort(rng.permutation(len(part))[:_ROWS]))
