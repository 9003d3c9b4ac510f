"""``holdfast data`` shows what there is, and JSON that says the same."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from holdfast.cli import data

run = CliRunner()


def test_list_names_every_data_set():
    from holdfast.data import list_named

    rows = json.loads(run.invoke(data.app, ["list", "--json"]).stdout)
    assert [r["name"] for r in rows] == list_named()
    shown = run.invoke(data.app, ["list"]).stdout
    assert all(name in shown for name in list_named())


def test_describe_counts_a_named_set_and_a_file(tmp_path):
    facts = json.loads(run.invoke(data.app, ["describe", "iris", "--json"]).stdout)
    assert facts["counts"]["all"] == {"setosa": 50, "versicolor": 50, "virginica": 50, "samples": 150}
    p = tmp_path / "a.csv"
    p.write_text("age,site,y\n1,N,no\n2,N,yes\n3,S,no\n4,S,no\n")
    facts = json.loads(run.invoke(data.app, ["describe", str(p), "--json"]).stdout)
    assert facts["environments"] == {"N": 2, "S": 2}
    assert "'yes' from 'S'" in facts["notes"][0]
    shown = run.invoke(data.app, ["describe", str(p)]).stdout
    assert "note" in shown
    assert "2" in shown


def test_get_says_when_there_is_nothing_to_fetch():
    assert "nothing to fetch" in run.invoke(data.app, ["get", "iris"]).stdout


def test_a_misspelt_name_is_met_with_the_closest():
    error = run.invoke(data.app, ["describe", "irsi"]).exception
    assert isinstance(error, ValueError)
    assert "did you mean 'iris'" in str(error)
