from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from holdfast.cli.retrieve import app

RUN = CliRunner()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 5, 300)
    means = rng.normal(size=(5, 16)) * 3
    z = (means[y] + rng.normal(size=(300, 16))).astype(np.float32)
    np.save(tmp_path / "db.npy", z[:250])
    np.save(tmp_path / "db-labels.npy", y[:250])
    np.save(tmp_path / "queries.npy", z[250:])
    np.save(tmp_path / "query-labels.npy", y[250:])
    return tmp_path


def _index(files: Path, *extra: str) -> str:
    out = str(files / "index")
    done = RUN.invoke(app, ["index", str(files / "db.npy"), "--out", out, "--dims", "4,8,16", *extra])
    assert done.exit_code == 0, done.output
    assert "250 vectors of 16 dimensions, prefixes 4, 8, 16" in done.output
    return out


def test_funnel_of_the_whole_database_equals_exact_search(files: Path) -> None:
    index = _index(files, "--labels", str(files / "db-labels.npy"))
    found = {}
    for name, options in (("funnel", ["--dims", "4,16", "--funnel", "250,7"]), ("exact", ["--k", "7"])):
        out = str(files / f"{name}.npz")
        arguments = ["search", index, str(files / "queries.npy"), *options, "--out", out, "--json", "--compare"]
        arguments += ["--query-labels", str(files / "query-labels.npy")]
        done = RUN.invoke(app, arguments)
        assert done.exit_code == 0, done.output
        report = json.loads(done.output)
        found[name] = np.load(out)["indices"]
        assert report["same_as_exact"] == 1
        assert report["precision@7"] > 0.9
    assert found["funnel"].shape == (50, 7)
    assert np.array_equal(found["funnel"], found["exact"])


def test_report_says_what_a_query_costs(files: Path) -> None:
    index = _index(files)
    done = RUN.invoke(
        app, ["search", index, str(files / "queries.npy"), "--dims", "4,8,16", "--funnel", "50,20", "--k", "5"]
    )
    assert done.exit_code == 0, done.output
    assert str(250 * 4 + 50 * 8 + 20 * 16) in done.output
    assert "query 0:" in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dims", "4,8", "--funnel", "50,20,10"], "1 re-ranking lengths after the first"),
        (["--dims", "4,x"], "integers separated by commas"),
        (["--dims", "4,12", "--funnel", "50"], "lengths must be among"),
        (["--dims", "4,8,16", "--funnel", "20,50"], "strictly decreasing"),
        (["--query-labels", "query-labels.npy"], "without labels"),
    ],
)
def test_wrong_funnels_are_refused(files: Path, arguments: list[str], message: str) -> None:
    index = _index(files)
    arguments = [str(files / a) if a.endswith(".npy") else a for a in arguments]
    done = RUN.invoke(app, ["search", index, str(files / "queries.npy"), *arguments])
    assert done.exit_code == 1
    assert message in str(done.exception)


def test_wrong_files_are_refused(files: Path) -> None:
    np.save(files / "flat.npy", np.zeros(3))
    for path, message in (("flat.npy", "must hold embeddings"), ("none.npy", "no file at")):
        done = RUN.invoke(app, ["index", str(files / path), "--out", str(files / "i")])
        assert message in str(done.exception)
    done = RUN.invoke(
        app,
        ["index", str(files / "db.npy"), "--out", str(files / "i"), "--labels", str(files / "query-labels.npy")],
    )
    assert "lengths differ" in str(done.exception)
