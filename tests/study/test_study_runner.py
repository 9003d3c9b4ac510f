"""A study loses nothing: not to a kill of itself, nor of a worker, nor to a method that raises; and repeats exactly."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from fakes import HERE, fake, make_sites, spec_of, without_times

from holdfast.study.executors import LocalExecutor, usable_cores
from holdfast.study.load import describe
from holdfast.study.measure import parts_of, run_cell
from holdfast.study.plan import Cell, plan
from holdfast.study.runner import Progress, open_study, run_study
from holdfast.study.spec import SpecError, parse_spec


def run(tmp_path, spec, name="run", **options):
    return run_study(spec, tmp_path / name, data={"data": make_sites()}, ship=False, **options)


def test_the_result_does_not_depend_on_how_many_workers_there_are(tmp_path):
    methods = [fake("NearestMean", "erm", noise=0.5), "coral"]
    found = []
    for workers in (0, 1, 3):
        spec = spec_of(tmp_path, methods, steps=20, executor={"kind": "local", "workers": workers})
        found.append(without_times(run(tmp_path, spec, f"w{workers}").summary))
    assert found[0] == found[1] == found[2]


def test_a_cell_that_raises_is_shown_and_the_study_completes(tmp_path):
    spec = spec_of(tmp_path, [fake("NearestMean", "erm"), fake("Broken")], executor={"workers": 0})
    summary = run(tmp_path, spec).summary
    assert summary["cells"] == {"planned": 12, "done": 10, "failed": 2, "missing": 0}
    (setting,) = summary["settings"]
    assert {f["message"] for f in setting["failures"]} == {"RuntimeError: the flux capacitor is empty"}
    assert setting["verdict"]["method"] == "erm"
    assert "flux capacitor" in (tmp_path / "run" / "report.html").read_text()


def test_a_worker_killed_in_a_cell_costs_that_attempt_alone(tmp_path):
    methods = [fake("NearestMean", "erm"), fake("DiesOnce", log=str(tmp_path / "died"))]
    spec = spec_of(tmp_path, methods, executor={"workers": 2})
    summary = run(tmp_path, spec).summary
    assert (tmp_path / "died").exists()
    assert summary["cells"]["failed"] == 0
    one, two = summary["settings"][0]["methods"]
    assert one["environments"] == {k: {"accuracy": v["accuracy"]} for k, v in two["environments"].items()}


def test_a_cell_whose_worker_always_dies_fails_and_says_so(tmp_path):
    spec = spec_of(
        tmp_path, [fake("NearestMean", "erm"), fake("AlwaysDies")], seeds=1, executor={"workers": 2, "retries": 1}
    )
    summary = run(tmp_path, spec).summary
    assert summary["cells"]["done"] == 3
    assert summary["cells"]["failed"] == 3
    assert all("each of 2 attempts: signal 9" in f["message"] for f in summary["settings"][0]["failures"])


def test_a_worker_killed_from_outside_is_replaced(tmp_path):
    log = tmp_path / "log"
    spec = spec_of(tmp_path, [fake("NearestMean", "erm", seconds=0.3, log=str(log))], executor={"workers": 2})
    killed = []

    def watch(state: Progress) -> None:
        if state.done == 2 and not killed:
            killed.append(int(log.read_text().split()[-2]))
            os.kill(killed[0], signal.SIGKILL)

    summary = run(tmp_path, spec, watch=watch).summary
    assert killed
    assert summary["cells"] == {"planned": 6, "done": 6, "failed": 0, "missing": 0}


SCRIPT = """
    import sys
    sys.path.insert(0, {here!r})
    from fakes import make_sites
    from holdfast.study import parse_spec, run_study
    if __name__ == "__main__":
        method = {{"name": "fakes:NearestMean", "title": "erm", "params": {{"noise": 0.5, "seconds": {seconds}}}}}
        worse = {{"name": "fakes:NearestMean", "title": "worse", "params": {{"features": 2, "seconds": {seconds}}}}}
        spec = parse_spec({{"data": {{"path": {path!r}}}, "methods": [method, worse], "seeds": 3,
                           "executor": {{"workers": 2}}}})
        run_study(spec, {folder!r}, data={{"data": make_sites()}}, ship=False)
"""


def start(tmp_path: Path, folder: Path, seconds: float) -> subprocess.Popen:
    script = tmp_path / f"{folder.name}.py"
    script.write_text(
        textwrap.dedent(SCRIPT.format(here=HERE, path=str(tmp_path), folder=str(folder), seconds=seconds))
    )
    return subprocess.Popen([sys.executable, str(script)], start_new_session=True)


def stored(folder: Path) -> int:
    try:
        with sqlite3.connect(folder / "cells.sqlite") as connection:
            return connection.execute("select count(*) from holdfast_cell").fetchone()[0]
    except sqlite3.OperationalError:
        return 0


def children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found += [int(stat.parent.name), *children(int(stat.parent.name))]
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")
def test_a_study_killed_with_signal_nine_goes_on_and_ends_with_the_same_table(tmp_path):
    whole = start(tmp_path, tmp_path / "whole", 0.2)
    killed = start(tmp_path, tmp_path / "killed", 0.2)
    deadline = time.time() + 120
    while stored(tmp_path / "killed") < 4 and killed.poll() is None and time.time() < deadline:
        time.sleep(0.02)
    workers = children(killed.pid)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    kept = stored(tmp_path / "killed")
    assert 4 <= kept < 18
    partial, _ = open_study(tmp_path / "killed")
    assert partial["cells"]["missing"] == 18 - kept

    while any(Path(f"/proc/{p}").exists() for p in workers) and time.time() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{p}").exists() for p in workers)  # no worker outlives the study
    assert stored(tmp_path / "killed") == kept

    assert start(tmp_path, tmp_path / "killed", 0.2).wait(120) == 0
    assert whole.wait(120) == 0
    one, two = (without_times(open_study(tmp_path / f)[0]) for f in ("whole", "killed"))
    assert one["cells"]["done"] == 18
    assert one == two


def test_finished_cells_are_never_run_again_and_new_ones_are_added(tmp_path):
    log = tmp_path / "log"
    methods = [fake("NearestMean", "erm", log=str(log))]
    run(tmp_path, spec_of(tmp_path, methods, executor={"workers": 0}))
    assert len(log.read_text().splitlines()) == 6
    run(tmp_path, spec_of(tmp_path, methods, executor={"workers": 0}))
    assert len(log.read_text().splitlines()) == 6
    run(tmp_path, spec_of(tmp_path, methods, seeds=3, executor={"workers": 0}))
    assert len(log.read_text().splitlines()) == 9


def test_a_failed_cell_is_tried_again_by_the_next_run(tmp_path):
    flag = tmp_path / "flag"
    spec = spec_of(tmp_path, [fake("DiesOnce", log=str(flag))], seeds=1, executor={"workers": 1, "retries": 0})
    assert run(tmp_path, spec).summary["cells"]["failed"] == 1
    assert run(tmp_path, spec).summary["cells"]["failed"] == 0


def test_held_out_samples_never_reach_training(tmp_path):
    spec = spec_of(tmp_path, [fake("Leaky", "erm"), fake("NearestMean")], hold_out=["C"], executor={"workers": 0})
    assert run(tmp_path, spec).summary["cells"]["failed"] == 0
    spec = spec_of(tmp_path, [fake("Leaky", "erm")], hold_out=["A"], executor={"workers": 0})
    assert run(tmp_path, spec, "other").summary["cells"]["failed"] == 2  # the fake does notice


def test_the_parts_of_a_cell_are_disjoint_and_complete():
    data = make_sites()
    cell = Cell("data", "f", "m", "fakes:NearestMean", {}, ("B",), 3, 0, 0.25)
    parts = parts_of(cell, data)
    rows = {k: set(np.asarray(v.x)[:, -1]) for k, v in (("fit", parts.fit), ("val", parts.validation))}
    halves = [set(np.asarray(h.x)[:, -1]) for h in (parts.calibration, parts.check)]
    held = set(np.asarray(parts.held_out["B"].x)[:, -1])
    assert not rows["fit"] & rows["val"]
    assert not (rows["fit"] | rows["val"]) & held
    assert halves[0] | halves[1] == rows["val"]
    assert not halves[0] & halves[1]
    assert len(rows["fit"] | rows["val"] | held) == len(data)


def test_methods_of_one_seed_are_compared_on_the_same_parts():
    data = make_sites()
    cells = [Cell("data", "f", m, m, p, ("B",), 3, t, 0.25) for m, p, t in (("a", {}, 0), ("b", {"x": 1}, 2))]
    one, two = (parts_of(c, data) for c in cells)
    assert (one.fit.x == two.fit.x).all()


def test_a_class_that_training_never_saw_gets_probability_zero():
    data = make_sites()
    rows = ~((data.environment_names != "C") & (data.y == "yes") & (np.arange(len(data)) % 5 > 0))
    rows &= ~((data.environment_names != "C") & (data.y == "yes"))
    few = data.subset(rows)  # only C has the class "yes"
    third = np.where((few.environment_names == "A") & (np.arange(len(few)) % 4 == 0), "maybe", few.y)
    relabelled = type(few)(few.x, third, few.environment, few.names)
    outcome = run_cell(Cell("data", "f", "m", "fakes:NearestMean", {}, ("C",), 0, 0, 0.2), relabelled)
    assert outcome.status == "done"
    assert outcome.result["held_out"]["C"]["accuracy"] <= (relabelled.only("C").y != "yes").mean()


def test_a_study_is_read_without_its_data(tmp_path):
    spec = spec_of(tmp_path, [fake("NearestMean", "erm")], executor={"workers": 0})
    fields = spec.to_dict()
    (tmp_path / "there.csv").write_text("x")
    fields["settings"][0]["data"]["path"] = str(tmp_path / "there.csv")
    finished = run(tmp_path, parse_spec(fields))
    (tmp_path / "there.csv").unlink()
    summary, _ = open_study(finished.folder)
    assert without_times(summary) == without_times(finished.summary)


def test_unreadable_studies_and_missing_samples_are_refused(tmp_path):
    with pytest.raises(SpecError, match="no study folder"):
        open_study(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SpecError, match="holds no study"):
        open_study(tmp_path / "empty")
    spec = spec_of(tmp_path, [fake("NearestMean", "erm")])
    with pytest.raises(SpecError, match="no samples were given"):
        run_study(spec, tmp_path / "x", data={})


def test_scratch_files_are_gone_after_the_run(tmp_path):
    data = make_sites()
    spec = spec_of(tmp_path, [fake("NearestMean", "erm")], seeds=1)
    cells = plan(spec, [describe(spec.settings[0], data)])
    done = dict(LocalExecutor(tmp_path / "scratch", workers=2).run(cells, {"data": data}))
    assert len(done) == 3
    assert list((tmp_path / "scratch").iterdir()) == []
    assert LocalExecutor(tmp_path).workers == usable_cores()
