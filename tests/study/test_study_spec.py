"""A wrong specification is refused with the name of the field, before anything runs."""

from __future__ import annotations

import pytest

from holdfast.study.spec import SpecError, load_spec, parse_spec

GOOD = {"data": {"named": "sklearn-digits"}, "methods": ["erm"]}


def test_a_written_specification_reads_back_the_same():
    spec = parse_spec(
        GOOD
        | {
            "shift": {"name": "rotation", "params": {"angles": [0, 90]}},
            "methods": ["erm", {"name": "vrex", "params": {"penalty": 3.0}, "trials": 4, "search": {"lr": [0.1]}}],
            "hold_out": ["rotation=0"],
            "seeds": [5, 7],
            "executor": {"kind": "local", "workers": 1},
        }
    )
    assert parse_spec(spec.to_dict()) == spec


@pytest.mark.parametrize(
    ("change", "field", "hint"),
    [
        ({"methods": ["emr"]}, "methods[0].name", "did you mean 'erm'"),
        ({"methods": [{"name": "vrex", "params": {"penlaty": 1}}]}, "methods[0].params.penlaty", "'penalty'"),
        ({"methods": [{"name": "vrex", "search": {"penalty": 3}}]}, "methods[0].search.penalty", "low and high"),
        ({"methods": [{"name": "vrex", "search": {"lr": {"low": 1, "high": 0.1}}}]}, "methods[0].search.lr", "exceed"),
        ({"methods": ["no_such_package:Thing"]}, "methods[0].name", "cannot import"),
        ({"methods": ["erm", "erm"]}, "methods", "appears twice"),
        ({"data": {"path": "/no/such/file.csv"}}, "data.path", "nothing at"),
        ({"data": {"named": "sklearn-digit"}}, "data.named", "sklearn-digits"),
        ({"data": {}}, "data", "either 'path'"),
        ({"data": {"named": "sklearn-digits", "label": "y"}}, "data", "go with 'path'"),
        ({"shift": {"name": "rotate"}}, "shift.name", "rotation"),
        ({"shift": {"name": "rotation", "params": {"angle": 3}}}, "shift.params.angle", "angles"),
        ({"selection": "best"}, "selection", "'oracle'"),
        ({"seeds": 0}, "seeds", "at least one"),
        ({"seeds": [1, 1]}, "seeds", "distinct"),
        ({"trials": 0}, "trials", "greater than or equal to 1"),
        ({"validation": 1.5}, "validation", "less than 1"),
        ({"hold_out": []}, "hold_out", "at least one environment"),
        ({"method": ["erm"]}, "method", "did you mean 'methods'"),
        ({"executor": {"kind": "slurm"}}, "executor.kind", "'ray'"),
        ({"executor": {"kind": "local", "address": "auto"}}, "executor.address", "only a ray"),
        ({"baseline": "irm"}, "baseline", "known: erm"),
        ({"steps": 3, "epochs": 2}, "steps", "not both"),
        ({"params": {"colour": 1}}, "params.colour", "no method"),
        ({"name": "a/b"}, "name", "pattern"),
        ({"settings": []}, "data", "not both"),
        ({"methods": []}, "methods", "name at least one"),
        ({"data": {"named": "sklearn-digits", "limt": 9}}, "data.limt", "did you mean 'limit'"),
        ({"methods": [{"name": "vrex", "parms": {}}]}, "methods[0].parms", "did you mean 'params'"),
        ({"data": {"path": ".", "options": {"dorp": ["a"]}}}, "data.options.dorp", "did you mean 'drop'"),
        ({"data": {"memory": True, "limit": 9}}, "data", "limit goes with"),
        ({"data": {"named": "sklearn-digits", "limit": 0}}, "data.limit", "greater than or equal to 1"),
    ],
)
def test_a_wrong_field_is_named_with_a_hint(change, field, hint):
    with pytest.raises(SpecError) as error:
        parse_spec(GOOD | change)
    assert field in str(error.value)
    assert hint in str(error.value)


def test_every_wrong_field_is_listed_at_once():
    with pytest.raises(SpecError) as error:
        parse_spec({"data": {"named": "sklearn-digits"}, "methods": ["emr"], "seeds": 0, "selection": "x"})
    assert len(str(error.value).splitlines()) == 3


def test_a_misspelt_field_that_is_needed_is_said_once():
    with pytest.raises(SpecError) as error:
        parse_spec({"data": {"named": "sklearn-digits"}, "method": ["erm"]})
    assert str(error.value).startswith("method: there is no such field; did you mean 'methods'?")
    assert len(str(error.value).splitlines()) == 1


def test_fields_of_one_of_several_settings_keep_its_number():
    with pytest.raises(SpecError, match=r"^settings\[0\]\.data\.named: unknown"):
        parse_spec({"settings": [{"data": {"named": "digts"}}], "methods": ["erm"]})


def test_data_is_needed():
    with pytest.raises(SpecError, match="data: this field is needed"):
        parse_spec({"methods": ["erm"]})


def test_a_file_is_read_relative_to_itself_and_flags_win(tmp_path):
    (tmp_path / "d.csv").write_text("a,label,environment\n1,x,A\n")
    (tmp_path / "mine.yaml").write_text("data: {path: d.csv}\nmethods: [erm]\nseeds: 2\n")
    spec = load_spec(tmp_path / "mine.yaml", {"seeds": 4})
    assert spec.name == "mine"
    assert spec.seeds == (0, 1, 2, 3)
    assert spec.settings[0].data.path == tmp_path / "d.csv"


@pytest.mark.parametrize(("text", "message"), [("a: [", "not YAML"), ("- 1\n", "must hold fields")])
def test_a_file_that_is_no_specification_is_refused(tmp_path, text, message):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(SpecError, match=message):
        load_spec(tmp_path / "x.yaml")


def test_the_baseline_is_erm_else_the_first_method():
    assert parse_spec(GOOD | {"methods": ["vrex", "erm"]}).reference == "erm"
    assert parse_spec(GOOD | {"methods": ["vrex", "irm"]}).reference == "vrex"
