from __future__ import annotations

import pytest
import torch

from holdfast.representation.cascade import AdaptiveCascade

COSTS = [2.0, 8.0, 64.0]


def _world(n: int = 400, classes: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return probabilities of three predictors of growing quality, and labels."""
    rng = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (n,), generator=rng)
    signal = torch.nn.functional.one_hot(y, classes).double()
    noise = torch.randn(3, n, classes, generator=rng, dtype=torch.float64)
    strength = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)[:, None, None]
    return (strength * signal + noise).softmax(-1), y


def test_threshold_zero_always_stops_first_and_one_never_stops() -> None:
    probs, _ = _world()
    cascade = AdaptiveCascade(COSTS)
    first, last = cascade.predict(probs, [0, 0]), cascade.predict(probs, [1, 1])
    assert torch.equal(first.labels, probs[0].argmax(1))
    assert bool((first.costs == 2).all())
    assert torch.equal(last.labels, probs[2].argmax(1))
    assert bool((last.costs == 64).all())


def test_certain_prediction_does_not_stop_at_threshold_one() -> None:
    probs = torch.tensor([[[1.0, 0.0]], [[0.4, 0.6]]])
    assert AdaptiveCascade([1, 2]).predict(probs, [1]).labels.tolist() == [1]


def test_single_predictor_is_plain_prediction() -> None:
    probs, y = _world()
    cascade = AdaptiveCascade([8]).fit(probs[:1], y)
    assert cascade.thresholds_ == ()
    assert torch.equal(cascade.predict(probs[:1]).labels, probs[0].argmax(1))


def test_expected_cost_lies_between_cheapest_and_dearest() -> None:
    probs, y = _world()
    out = AdaptiveCascade(COSTS).fit(probs, y).predict(probs)
    assert COSTS[0] <= float(out.costs.mean()) <= COSTS[-1]
    assert torch.equal(out.costs, torch.tensor(COSTS)[out.stages])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("classes", [3, 40])
def test_fitted_pair_is_no_worse_than_its_better_half_on_its_own_data(seed: int, classes: int) -> None:
    probs, y = _world(seed=seed, classes=classes)
    for pair in (probs[:2], probs[1:], probs[[2, 0]]):
        cascade = AdaptiveCascade([1, 2]).fit(pair, y)
        accuracy = (cascade.predict(pair).labels == y).double().mean()
        alone = (pair.argmax(2) == y).double().mean(1).max()
        assert accuracy >= alone


def test_smallest_of_the_best_thresholds_is_chosen() -> None:
    # Right below 0.6 nothing is lost by stopping: any threshold in [0.55, 0.7) is equally accurate.
    probs = torch.tensor([[[0.7, 0.3], [0.45, 0.55]], [[0.9, 0.1], [0.9, 0.1]]], dtype=torch.float64)
    cascade = AdaptiveCascade([1, 2]).fit(probs, torch.tensor([0, 0]), grid=[0.2, 0.55, 0.6, 0.65])
    assert cascade.thresholds_ == (0.55,)


def test_stages_evaluated_lazily_give_the_same_answers() -> None:
    probs, y = _world()
    cascade = AdaptiveCascade(COSTS).fit(probs, y)
    calls = []

    def predictor(j: int):
        def predict(rows: torch.Tensor) -> torch.Tensor:
            calls.append(len(rows))
            return probs[j, rows]

        return predict

    lazy = cascade.run([predictor(j) for j in range(3)], torch.arange(len(y)))
    eager = cascade.predict(probs)
    assert torch.equal(lazy.labels, eager.labels)
    assert torch.equal(lazy.costs, eager.costs)
    assert calls == [400, int((eager.stages > 0).sum()), int((eager.stages > 1).sum())]


def test_curve_ends_at_the_whole_cascade_and_starts_at_the_cheapest_predictor() -> None:
    probs, y = _world()
    cascade = AdaptiveCascade(COSTS).fit(probs, y)
    curve = cascade.curve(probs, y)
    out = cascade.predict(probs)
    assert curve[0].cost == 2
    assert curve[0].accuracy == pytest.approx(float((probs[0].argmax(1) == y).double().mean()))
    assert curve[-1].cost == pytest.approx(float(out.costs.mean()))
    assert curve[-1].accuracy == pytest.approx(float((out.labels == y).double().mean()))
    assert [p.last for p in curve] == COSTS


@pytest.mark.parametrize("costs", [[], [2, 2], [3, 1], [0, 1], [-1, 2]])
def test_wrong_costs_are_refused(costs: list[float]) -> None:
    with pytest.raises(ValueError, match="costs"):
        AdaptiveCascade(costs)


def test_wrong_probabilities_are_refused() -> None:
    probs, y = _world()
    cascade = AdaptiveCascade(COSTS)
    with pytest.raises(ValueError, match="summing to 1"):
        cascade.fit(probs * 1.1, y)
    with pytest.raises(ValueError, match="with 3 stages"):
        cascade.fit(probs[:2], y)
    with pytest.raises(ValueError, match="must be finite"):
        cascade.fit(probs * float("nan"), y)
    with pytest.raises(ValueError, match="y must lie in"):
        cascade.fit(probs, y + 4)
    with pytest.raises(ValueError, match="400 samples, y has 399"):
        cascade.fit(probs, y[:-1])


def test_predicting_before_fitting_or_with_wrong_thresholds_is_refused() -> None:
    probs, _ = _world()
    with pytest.raises(ValueError, match="no thresholds yet"):
        AdaptiveCascade(COSTS).predict(probs)
    with pytest.raises(ValueError, match="hold 2 values, got 1"):
        AdaptiveCascade(COSTS).predict(probs, [0.5])
    with pytest.raises(ValueError, match=r"thresholds\[1\]"):
        AdaptiveCascade(COSTS).predict(probs, [0.5, 1.5])
