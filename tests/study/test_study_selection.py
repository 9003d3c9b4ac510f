"""Selection rules look at what they may look at, and intervals cover what they should."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import fake, make_sites, spec_of
from scipy import stats

from holdfast.metrics import hierarchical_bootstrap
from holdfast.study.plan import Cell
from holdfast.study.resample import Bootstrap, interval
from holdfast.study.runner import run_study
from holdfast.study.selection import Records
from holdfast.study.store import Outcome
from holdfast.study.verdict import verdict


def _cell(held_out, trial, seed=0):
    return Cell("data", "f", "m", "m", {"t": trial}, held_out, seed, trial, 0.2)


def _done(accuracy, validation):
    held = {e: {"accuracy": a} for e, a in accuracy.items()}
    return Outcome("done", "", {"held_out": held, "validation_score": validation}, {}, 0.0)


def _records():
    """Three trials: 0 is best on training samples, 1 on left-out training environments, 2 on the test environment."""
    found = {
        (("A",), 0): _done({"A": 0.1}, 0.9),
        (("A",), 1): _done({"A": 0.2}, 0.8),
        (("A",), 2): _done({"A": 0.9}, 0.7),
        (("A", "B"), 0): _done({"A": 1.0, "B": 0.1}, 0.5),
        (("A", "B"), 1): _done({"A": 0.0, "B": 0.9}, 0.5),
        (("A", "B"), 2): _done({"A": 1.0, "B": 0.2}, 0.5),
        (("A", "C"), 0): _done({"A": 1.0, "C": 0.1}, 0.5),
        (("A", "C"), 1): _done({"A": 0.0, "C": 0.9}, 0.5),
        (("A", "C"), 2): _done({"A": 1.0, "C": 0.2}, 0.5),
    }
    cells = {key: _cell(*key) for key in found}
    return list(cells.values()), {cells[k].key: v for k, v in found.items()}


@pytest.mark.parametrize(("rule", "trial"), [("training", 0), ("leave-one-out", 1), ("oracle", 2)])
def test_each_rule_picks_by_its_own_evidence(rule, trial):
    records = Records(*_records(), environments=["A", "B", "C"])
    assert records.select("m", "A", 0, rule) == trial


def test_only_the_oracle_depends_on_the_held_out_environment():
    cells, outcomes = _records()
    for cell in cells:
        outcomes[cell.key].result["held_out"]["A"]["accuracy"] = 0.5
    changed = Records(cells, outcomes, environments=["A", "B", "C"])
    assert changed.select("m", "A", 0, "training") == 0
    assert changed.select("m", "A", 0, "leave-one-out") == 1
    assert changed.select("m", "A", 0, "oracle") == 0  # all tie now, and the earliest wins


def test_a_trial_that_failed_is_never_picked():
    cells, outcomes = _records()
    outcomes[_cell(("A",), 0).key] = Outcome("failed", "x", {}, {}, 0.0)
    assert Records(cells, outcomes, environments=["A", "B", "C"]).select("m", "A", 0, "training") == 1


@pytest.mark.parametrize("rule", ["training", "leave-one-out", "oracle"])
def test_a_search_finds_the_trial_that_generalises_only_where_the_rule_can_see_it(tmp_path, rule):
    # Feature 1 is better than feature 0 within A and B and misleading in C: held-out parts of A and B prefer both.
    method = fake("NearestMean", "erm") | {"trials": 6, "search": {"features": [1, 2]}}
    spec = spec_of(tmp_path, [method], selection=rule, seeds=1, executor={"workers": 0})
    summary = run_study(spec, tmp_path / "run", data={"data": make_sites(600)}, ship=False).summary
    (row,) = summary["settings"][0]["methods"]
    on_c = row["environments"]["C"]["accuracy"]["mean"]
    assert (on_c > 0.75) == (rule == "oracle")
    assert summary["oracle"] == (rule == "oracle")
    assert ("oracle" in summary["settings"][0]["verdict"]["sentence"]) == (rule == "oracle")
    assert ("Oracle selection" in (tmp_path / "run" / "report.html").read_text()) == (rule == "oracle")


def _bootstrap(matrices, draws=4000):
    correct = {"E": dict(matrices)}
    return Bootstrap(correct, {m: list(range(len(c))) for m, c in matrices.items()}, draws=draws)


def test_with_one_seed_the_interval_is_that_of_a_proportion():
    correct = (np.arange(400) % 5 > 0)[None]
    e = interval(0.8, _bootstrap({"m": correct}).accuracy("m", "E"))
    half = 1.96 * np.sqrt(0.8 * 0.2 / 400)
    assert abs(e["low"] - (0.8 - half)) < 0.006
    assert abs(e["high"] - (0.8 + half)) < 0.006


def test_draws_by_pattern_agree_with_the_bootstrap_over_seeds_and_samples():
    rng = np.random.default_rng(100)
    p = rng.random(150)
    correct = rng.random((40, 150)) < (0.7 * p + 0.3 * rng.random((40, 1)))
    e = interval(correct.mean(), _bootstrap({"m": correct}).accuracy("m", "E"))
    other = hierarchical_bootstrap(correct.astype(float), seed=0, n_resamples=4000)
    assert abs(e["low"] - other.low) < 0.01  # with 40 seeds the stretch of the seeds' weights is 1%
    assert abs(e["high"] - other.high) < 0.01


def test_the_spread_over_few_seeds_is_not_understated():
    rng = np.random.default_rng(101)
    variances = []
    for _ in range(300):
        level = np.clip(0.5 + 0.1 * rng.normal(size=3), 0, 1)
        correct = np.arange(2000) < (level * 2000).astype(int)[:, None]
        correct = rng.permuted(correct, axis=1)
        variances.append(_bootstrap({"m": correct}, draws=400).accuracy("m", "E").var())
    expected = 0.1**2 / 3 + 0.25 / 2000  # of the mean of three seeds, and of the samples they share
    assert abs(np.mean(variances) / expected - 1) < 0.15


def test_the_difference_of_a_method_with_itself_is_exactly_zero():
    correct = np.random.default_rng(102).random((3, 500)) < 0.7
    b = _bootstrap({"one": correct, "two": correct.copy()})
    assert (b.accuracy("one", "E") == b.accuracy("two", "E")).all()


def test_pairing_makes_the_difference_surer_than_either_accuracy():
    rng = np.random.default_rng(103)
    one = rng.random((3, 500)) < rng.random(500)
    two = one ^ (rng.random((3, 500)) < 0.02)
    b = _bootstrap({"one": one, "two": two})
    assert (b.accuracy("one", "E") - b.accuracy("two", "E")).std() < 0.5 * b.accuracy("one", "E").std()


def test_paired_intervals_cover_a_true_difference_at_least_as_often_as_they_say():
    rng = np.random.default_rng(104)
    hits = 0
    for _ in range(200):
        easy = rng.random(300)
        one = rng.random((4, 300)) < np.clip(easy + 0.1, 0, 1)
        two = rng.random((4, 300)) < easy
        true = np.clip(np.linspace(0, 1, 100001) + 0.1, 0, 1).mean() - 0.5
        b = _bootstrap({"one": one, "two": two}, draws=500)
        e = interval(0.0, b.accuracy("one", "E") - b.accuracy("two", "E"))
        hits += e["low"] <= true <= e["high"]
    # Noise of single predictions enters through seeds and through samples, so the interval is conservative.
    assert stats.binomtest(hits, 200, 0.95, alternative="less").pvalue > 1e-3


def _row(method, mean, difference=None, seeds=(0, 1, 2)):
    e = {"mean": mean, "low": mean - 0.01, "high": mean + 0.01}
    row = {"method": method, "average": e, "environments": {"A": {"accuracy": e}}, "validation": 0.9, "ece": 0.1}
    row |= {"distrust": None, "seeds": list(seeds)}
    if difference is not None:
        low, high = difference
        d = {"mean": (low + high) / 2, "low": low, "high": high, "adjusted_low": low, "adjusted_high": high}
        d["seeds"] = len(seeds)
        row["difference"] = d
        row["environments"]["A"]["difference"] = d
    return row


def test_a_method_is_shipped_only_when_it_is_shown_to_beat_the_baseline():
    unsure = verdict([_row("erm", 0.7), _row("vrex", 0.9, (-0.01, 0.4))], "erm", ["A"], "training")
    assert unsure["method"] == "erm"
    assert "No method is shown to beat ERM" in unsure["sentence"]
    assert "ship ERM" in unsure["sentence"]
    sure = verdict([_row("erm", 0.7), _row("vrex", 0.8, (0.05, 0.15))], "erm", ["A"], "training")
    assert sure["method"] == "vrex"
    assert sure["sentence"].startswith("Ship VREx")


def test_one_seed_never_shows_that_a_method_is_better_or_worse():
    rows = [_row("erm", 0.7), _row("vrex", 0.9, (0.1, 0.3), seeds=[0]), _row("irm", 0.5, (-0.3, -0.1), seeds=[0])]
    found = verdict(rows, "erm", ["A"], "training")
    assert found["method"] == "erm"
    assert found["sentence"].startswith("One seed cannot show")
    assert found["worse"] == ""


def test_of_several_better_methods_the_best_mean_is_shipped():
    rows = [_row("erm", 0.7), _row("vrex", 0.8, (0.05, 0.15)), _row("irm", 0.85, (0.01, 0.3))]
    assert verdict(rows, "erm", ["A"], "training")["method"] == "irm"


def test_without_a_finished_method_there_is_no_verdict_and_without_the_baseline_no_comparison():
    assert verdict([{"method": "erm"}], "erm", ["A"], "training") is None
    only = verdict([{"method": "erm"}, _row("vrex", 0.8)], "erm", ["A"], "training")
    assert only["method"] == "vrex"
    assert "nothing can be compared" in only["sentence"]
