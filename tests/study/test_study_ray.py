"""The same study on a Ray cluster started for the run."""

from __future__ import annotations

import pytest
from fakes import fake, make_sites, spec_of, without_times

from holdfast.study.runner import run_study

pytest.importorskip("ray", reason="the cluster extra is not installed")

RAY = {"kind": "ray", "workers": 2}


@pytest.mark.slow
def test_ray_gives_the_same_table_and_survives_kill_minus_nine_of_a_worker(tmp_path):
    methods = [fake("NearestMean", "erm", noise=0.5), fake("Broken")]
    dies = fake("DiesOnce", log=str(tmp_path / "died"))
    local = spec_of(tmp_path, [*methods, fake("NearestMean", "DiesOnce")], executor={"workers": 0})
    cluster = spec_of(tmp_path, [*methods, dies], executor=RAY)
    one, two = (
        run_study(spec, tmp_path / name, data={"data": make_sites()}, ship=False).summary
        for name, spec in (("local", local), ("ray", cluster))
    )
    assert (tmp_path / "died").exists()
    assert two["cells"] == {"planned": 18, "done": 16, "failed": 2, "missing": 0}
    one, two = without_times(one), without_times(two)
    for summary in (one, two):
        for row in summary["settings"][0]["methods"]:
            row.pop("class")
            row.pop("final", None)
    assert one["settings"] == two["settings"]


@pytest.mark.slow
def test_a_worker_that_always_dies_is_a_failed_cell(tmp_path):
    methods = [fake("NearestMean", "erm"), fake("AlwaysDies")]
    spec = spec_of(tmp_path, methods, seeds=1, hold_out=["A"], executor=RAY | {"retries": 1})
    summary = run_study(spec, tmp_path / "run", data={"data": make_sites()}, ship=False).summary
    assert (summary["cells"]["done"], summary["cells"]["failed"]) == (1, 1)
    assert "each of 2 attempts" in summary["settings"][0]["failures"][0]["message"]
