"""The table of methods: every name runs as it is and with every hyper-parameter its search can draw."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import make_sites
from sklearn.base import clone

from holdfast.study.measure import run_cell
from holdfast.study.methods import METHODS, build, find_class
from holdfast.study.plan import Cell
from holdfast.study.search import Choice, LogUniform, Uniform, draw, parse_distribution


@pytest.mark.parametrize("name", METHODS)
def test_each_method_takes_what_its_search_draws_and_can_be_cloned(name):
    known = find_class(name)().get_params(deep=False)
    assert set(METHODS[name].search) <= set(known)
    model = build(name, draw(METHODS[name].search, 1, method=name), random_state=3)
    assert clone(model).get_params() == model.get_params()
    assert model.random_state == 3


@pytest.mark.parametrize("trial", [0, 1, 2])
@pytest.mark.parametrize("name", METHODS)
def test_each_method_runs_in_a_cell(name, trial):
    params = {"steps": 8} | draw(METHODS[name].search, trial, method=name)
    outcome = run_cell(Cell("data", "f", name, name, params, ("B",), 100, trial, 0.2), make_sites(180))
    assert outcome.message == ""
    held = outcome.result["held_out"]["B"]
    assert 0 <= held["accuracy"] <= 1
    assert np.isfinite(held["nll"])
    assert outcome.result["parameters"] > 0


def test_unknown_classes_are_not_found():
    with pytest.raises((ImportError, AttributeError)):
        find_class("holdfast.shift:Nothing")


@pytest.mark.parametrize("distribution", [Uniform(2, 5), LogUniform(2, 5), Uniform(2, 5, integer=True)])
def test_draws_stay_inside_and_fill_the_range(distribution):
    rng = np.random.default_rng(0)
    x = np.array([distribution.sample(rng) for _ in range(2000)])
    assert x.min() >= 2
    assert x.max() <= 5
    assert np.ptp(x) > 2.9


def test_log_uniform_draws_are_uniform_in_the_logarithm():
    rng = np.random.default_rng(1)
    x = np.log10([LogUniform(1e-4, 1e0).sample(rng) for _ in range(4000)])
    assert abs(x.mean() + 2) < 4 * 4 / np.sqrt(12 * 4000)


@pytest.mark.parametrize("text", [3, {"low": 1}, {"low": 1, "high": "x"}, {"low": 0, "high": 1, "log": True}, []])
def test_distributions_that_make_no_sense_are_refused(text):
    with pytest.raises(ValueError):
        parse_distribution(text)
    assert parse_distribution([1]) == Choice((1,))
