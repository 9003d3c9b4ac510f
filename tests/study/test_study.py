"""A study from Python."""

from __future__ import annotations

import numpy as np
import pytest

import holdfast as hf
from holdfast.data.worlds import gaussian_environments
from holdfast.study import SpecError, load_spec, run_study

DATA = gaussian_environments(3, 40, seed=100)


def test_samples_in_memory_run_ship_and_predict(tmp_path):
    study = hf.Study(DATA, methods=["erm", "vrex"], seeds=1, steps=15, hold_out=[DATA.names[2]])
    finished = study.run(tmp_path)
    rows = finished.summary["settings"][0]["methods"]
    assert {r["method"] for r in rows} == {"erm", "vrex"}
    assert finished.report.exists()
    assert len(finished.models) == 1
    again = study.run(tmp_path)
    assert again.summary["settings"][0]["methods"] == rows


def test_a_shift_is_applied_to_samples_in_memory(tmp_path):
    digits = hf.load_named("sklearn-digits").subset(np.arange(300))
    shift = {"name": "rotation", "params": {"angles": [0, 45]}}
    finished = hf.Study(digits, methods=["erm"], seeds=1, steps=5, shift=shift).run(tmp_path, ship=False)
    assert set(finished.summary["settings"][0]["methods"][0]["environments"]) == {"rotation=0", "rotation=45"}


def test_a_study_of_memory_cannot_be_read_back_without_it(tmp_path):
    hf.Study(DATA, methods=["erm"], seeds=1, steps=5).run(tmp_path, ship=False)
    with pytest.raises(SpecError, match="in memory"):
        run_study(load_spec(tmp_path / "study.yaml", {}), tmp_path / "again")


def test_wrong_fields_are_named():
    with pytest.raises(SpecError, match="did you mean 'vrex'"):
        hf.Study(DATA, methods=["vrx"])
    with pytest.raises(SpecError, match="seed"):
        hf.Study(DATA, seeds=0)
