"""The runner: same seed same values, evidence on disk, and the table that is made from it."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from holdfast.cli import app
from holdfast.papers import Claim, Paper, Reproduction, describe, reproduce, write_evidence
from holdfast.papers.table import END, TABLES, update_table

FACTS = describe(27)


def fake(values: list[float], scale="small") -> Reproduction:
    paper = Paper(
        **{k: getattr(FACTS, k) for k in ("number", "title", "arxiv", "year", "first_author")},
        experiment=lambda scale, seed: {"ours/acc": values[seed], "erm/acc": 0.5},
        claims=(Claim("gain", "ours gains 0.1", lambda v: v["ours/acc"] - v["erm/acc"], at_least=0.1),),
    )
    seeds = tuple(range(len(values)))
    run = Reproduction(paper, scale, seeds)
    for s in seeds:
        run.values[s] = paper.experiment(scale, s)
        run.seconds[s] = 0.1
    return run


def test_evidence_carries_what_a_reader_needs(tmp_path):
    path = write_evidence(fake([0.7, 0.72, 0.71, 0.69, 0.7]), tmp_path)
    record = json.loads(path.read_text())
    assert record["seeds"] == [0, 1, 2, 3, 4]
    assert record["claims"][0]["verdict"] == "held"
    assert record["claims"][0]["values"] == pytest.approx([0.2, 0.22, 0.21, 0.19, 0.2])
    assert record["values"]["2"]["ours/acc"] == 0.71
    assert {"torch", "numpy", "python"} <= set(record["versions"])
    assert record["commit"]


def test_evidence_needs_five_seeds_and_a_real_scale(tmp_path):
    with pytest.raises(ValueError, match="at least five seeds"):
        write_evidence(fake([0.7, 0.7]), tmp_path)
    with pytest.raises(ValueError, match="smoke"):
        write_evidence(fake([0.7] * 5, scale="smoke"), tmp_path)


@pytest.mark.parametrize("begin", TABLES)
def test_tables_are_generated_and_disagreement_is_seen(tmp_path, begin):
    write_evidence(fake([0.7, 0.72, 0.71, 0.69, 0.7]), tmp_path)
    page = tmp_path / "README.md"
    page.write_text(f"before\n{begin}\n{END}\nafter\n")
    assert not update_table(page, check=True, folder=tmp_path)
    assert not update_table(page, folder=tmp_path)
    assert update_table(page, check=True, folder=tmp_path)
    assert TABLES[begin](tmp_path) in page.read_text()
    assert page.read_text().startswith("before")
    page.write_text("no marks")
    with pytest.raises(ValueError, match="no place for the verdicts"):
        update_table(page, folder=tmp_path)


@pytest.mark.parametrize(
    ("numbers", "options", "message"),
    [
        ([99], {}, "not in the catalogue"),
        ([38], {}, "planned"),
        ([27], {"scale": "huge"}, "scale must be one of"),
        ([27], {"seeds": 0}, "at least 1"),
        ([27], {"first_seed": -1}, "non-negative"),
    ],
)
def test_wrong_requests_are_refused_before_anything_runs(numbers, options, message):
    with pytest.raises(ValueError, match=message):
        reproduce(numbers, **options)


def test_papers_command_lists_and_searches():
    out = CliRunner().invoke(app, ["papers", "--json"])
    rows = json.loads(out.stdout)
    assert out.exit_code == 0
    assert len(rows) == 47
    found = json.loads(CliRunner().invoke(app, ["papers", "relative", "anchors", "--json"]).stdout)
    assert found[0]["number"] == 14


def test_smoke_scale_judges_nothing():
    run = fake([0.1, 0.2], scale="smoke")
    assert [c.verdict for c in run.claims] == [None]
    assert run.held
