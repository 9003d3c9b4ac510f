"""The main job from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from holdfast.cli import app

runner = CliRunner()


@pytest.fixture(scope="module")
def sites(tmp_path_factory) -> Path:
    rng = np.random.default_rng(100)
    y = np.arange(180) % 2
    frame = pd.DataFrame({"a": rng.normal(size=180) + 2 * y, "b": rng.normal(size=180), "outcome": y})
    frame["site"] = np.array(["north", "south", "coast"])[np.arange(180) // 2 % 3]
    path = tmp_path_factory.mktemp("cli") / "sites.csv"
    frame.to_csv(path, index=False)
    return path


def flags(sites: Path, *more: str) -> list[str]:
    out = str(sites.parent / "run")
    data = ["--data", str(sites), "--label", "outcome", "--environment", "site", "--out", out]
    return ["study", *data, "--methods", "erm,coral", "--seeds", "100,101", "--steps", "15", "--workers", "0", *more]


def test_study_report_predict(sites, tmp_path):
    done = runner.invoke(app, flags(sites))
    assert done.exit_code == 0, done.output
    assert "coast" in done.output
    assert "ERM" in done.output
    run = sites.parent / "run"
    assert (run / "report.html").is_file()

    again = runner.invoke(app, ["report", str(run), "--out", str(tmp_path / "r.html")])
    assert again.exit_code == 0, again.output
    assert (tmp_path / "r.html").is_file()
    summary = json.loads(runner.invoke(app, ["report", str(run), "--json"]).stdout)
    assert summary["cells"] == {"planned": 12, "done": 12, "failed": 0, "missing": 0}
    assert summary["seeds"] == [100, 101]

    out = tmp_path / "p.csv"
    done = runner.invoke(app, ["predict", str(run), str(sites), "--out", str(out), "--keep", "outcome", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["rows"] == 180
    assert {"outcome", "prediction", "distrust", "nearest_environment"} <= set(pd.read_csv(out).columns)


def test_json_is_all_that_is_printed(sites):
    done = runner.invoke(app, flags(sites, "--json"))
    assert json.loads(done.stdout)["study"] == "sites"


def test_predictions_can_go_to_standard_output(sites):
    runner.invoke(app, flags(sites))
    command = [sys.executable, "-c", "from holdfast.cli import main; main()", "predict", str(sites.parent / "run")]
    done = subprocess.run([*command, str(sites), "--out", "-"], capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 181
    assert "180 rows" in done.stderr


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--methods", "emr"], "did you mean 'erm'"),
        (["--hold-out", "nowhere"], "has no environment 'nowhere'"),
        (["--label", "outcom"], "outcom"),
        (["--seeds", "many"], "--seeds"),
        (["--shift", "rotaton"], "rotation"),
        (["--selection", "best"], "selection"),
        (["--methods", ","], "methods: name at least one"),
        (["--drop", "bb"], "did you mean 'b'"),
        (["--size", "8"], "takes no size"),
        (["--store", "nonsense"], "store"),
        (["--data", "no/such.csv"], "nothing at"),
    ],
)
def test_wrong_flags_say_which(sites, more, message, capsys, monkeypatch):
    from holdfast.cli import main

    monkeypatch.setattr(sys, "argv", ["holdfast", *flags(sites, *more)])
    with pytest.raises(SystemExit) as error:
        main()
    assert error.value.code == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert message in shown


def test_columns_without_data_are_refused(capsys, monkeypatch):
    from holdfast.cli import main

    monkeypatch.setattr(sys, "argv", ["holdfast", "study", "--label", "y"])
    with pytest.raises(SystemExit):
        main()
    assert "--label: goes with --data" in capsys.readouterr().err


def test_flags_say_how_the_data_are_read(sites, tmp_path):
    out = ["--drop", "b", "--categorical", "a", "--missing", "?,unknown", "--limit", "90", "--hold-out", "north"]
    done = runner.invoke(app, flags(sites, "--out", str(tmp_path / "run"), "--seeds", "100", *out, "--json"))
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)["spec"]["settings"][0]["data"]
    assert data["options"] == {"drop": ["b"], "categorical": ["a"], "missing": ["?", "unknown"]}
    assert data["limit"] == 90
    columns = json.loads((tmp_path / "run" / "model" / "study.json").read_text())["columns"]
    assert columns == {"a": "text"}


def test_a_study_file_is_overridden_by_flags(sites, tmp_path):
    (tmp_path / "s.yaml").write_text(
        f"data: {{path: {sites}, label: outcome, environment: site}}\nmethods: [erm]\nseeds: 4\nsteps: 10\n"
    )
    command = ["study", str(tmp_path / "s.yaml"), "--seeds", "1", "--hold-out", "north", "--workers", "0", "--json"]
    done = runner.invoke(app, [*command, "--out", str(tmp_path / "run")])
    assert json.loads(done.stdout)["cells"]["planned"] == 1


def test_a_study_with_a_failed_cell_ends_with_status_three(sites, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "study"))
    (tmp_path / "s.yaml").write_text(
        f"data: {{path: {sites}, label: outcome, environment: site}}\n"
        "methods: [erm, 'fakes:AlwaysRaises']\nseeds: 1\nsteps: 10\n"
    )
    done = runner.invoke(app, ["study", str(tmp_path / "s.yaml"), "--workers", "0", "--out", str(tmp_path / "run")])
    assert done.exit_code == 3
    assert "cannot be fitted" in done.output
