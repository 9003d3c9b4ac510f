"""The plan holds each model once, and a cell's key says all that its result depends on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from holdfast.study.plan import Cell, SettingInfo, plan
from holdfast.study.search import LogUniform, draw
from holdfast.study.spec import SpecError, parse_spec

INFO = SettingInfo("data", "f00", "vector", {"A": 10, "B": 10, "C": 10, "D": 10}, ["0", "1"])
CELL = Cell("data", "f00", "erm", "erm", {"lr": 0.1}, ("A",), 0, 0, 0.2)


def _spec(**fields):
    return parse_spec({"data": {"named": "sklearn-digits"}, "methods": ["erm", "vrex"], "seeds": 2} | fields)


def test_each_setting_method_environment_seed_and_trial_is_planned_once():
    cells = plan(_spec(trials=3), [INFO])
    assert len(cells) == len({c.key for c in cells}) == 2 * 4 * 2 * 3
    assert {c.trial for c in cells[: 2 * 4 * 2]} == {0}  # an overview first


def test_leave_one_out_adds_each_pair_once_for_both_of_its_environments():
    cells = plan(_spec(trials=2, selection="leave-one-out", seeds=1), [INFO])
    pairs = [c for c in cells if len(c.held_out) == 2]
    assert len(pairs) == 6 * 2 * 2  # pairs of four x methods x trials
    few = plan(_spec(trials=2, selection="leave-one-out", seeds=1, hold_out=["A"]), [INFO])
    assert {c.held_out for c in few if len(c.held_out) == 2} == {("A", "B"), ("A", "C"), ("A", "D")}


def test_without_a_choice_to_make_leave_one_out_costs_nothing():
    assert all(len(c.held_out) == 1 for c in plan(_spec(selection="leave-one-out"), [INFO]))


@pytest.mark.parametrize(
    "change",
    [
        {"fingerprint": "f01"},
        {"method": "vrex"},
        {"params": {"lr": 0.2}},
        {"held_out": ("B",)},
        {"seed": 1},
        {"trial": 1},
        {"validation": 0.3},
    ],
)
def test_the_key_changes_with_everything_that_the_result_depends_on(change):
    assert replace(CELL, **change).key != CELL.key


def test_the_key_does_not_change_with_names_people_give():
    assert replace(CELL, setting="other", label="mine").key == CELL.key


def test_a_draw_depends_on_method_and_trial_alone():
    space = {"lr": LogUniform(1e-4, 1e-1), "penalty": LogUniform(1, 100)}
    assert draw(space, 2, method="vrex") == draw(dict(reversed(space.items())), 2, method="vrex")
    assert len({draw(space, t, method=m)["lr"] for t in (1, 2, 3) for m in ("vrex", "irm")}) == 6


def test_fixed_hyper_parameters_are_never_searched():
    spec = _spec(methods=[{"name": "vrex", "params": {"penalty": 7.0}}], trials=5)
    cells = plan(spec, [INFO])
    assert {c.params["penalty"] for c in cells} == {7.0}
    assert len({c.params.get("lr") for c in cells}) == 5


@pytest.mark.parametrize(
    ("fields", "counts", "message"),
    [
        ({}, {"A": 5}, "data.environment: .* needs at least two"),
        ({"hold_out": ["Z"]}, {"A": 5, "B": 5}, r"hold_out\[0\]: .*known: A, B"),
        ({"selection": "leave-one-out"}, {"A": 5, "B": 5}, "selection: .*three environments"),
    ],
)
def test_environments_that_cannot_be_held_out_are_refused(fields, counts, message):
    with pytest.raises(SpecError, match=message):
        plan(_spec(**fields), [replace(INFO, counts=counts)])
