import numpy as np
import pytest
import torch
from sklearn import metrics as peer
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score

from holdfast.metrics import (
    accuracy,
    balanced_accuracy,
    balanced_topk_accuracy,
    brier,
    macro_f1,
    nll,
    topk_accuracy,
    worst_group,
)


def _problem(seed=100, n=200, c=4):
    rng = np.random.default_rng(seed)
    y = rng.choice(c, n, p=[0.5, 0.3, 0.15, 0.05])
    logits = rng.normal(size=(n, c)) + 1.5 * np.eye(c)[y]
    proba = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return y, proba


@pytest.mark.parametrize("as_input", [np.asarray, torch.as_tensor, list, lambda v: np.array(list("dbca"))[v]])
def test_hard_metrics_agree_with_scikit_learn(as_input):
    y, proba = _problem()
    pred = proba.argmax(1)
    a, b = as_input(y), as_input(pred)
    assert accuracy(a, b) == pytest.approx(peer.accuracy_score(y, pred), abs=1e-12)
    assert balanced_accuracy(a, b) == pytest.approx(peer.balanced_accuracy_score(y, pred), abs=1e-12)
    assert macro_f1(a, b) == pytest.approx(peer.f1_score(y, pred, average="macro"), abs=1e-12)


def test_macro_f1_counts_classes_that_are_only_predicted_as_scikit_learn_does():
    y, pred = [0, 0, 1], [0, 2, 1]
    assert macro_f1(y, pred) == pytest.approx(peer.f1_score(y, pred, average="macro", zero_division=0))


def test_metrics_agree_with_torchmetrics():
    y, proba = _problem()
    t, p = torch.as_tensor(y), torch.as_tensor(proba)
    for k in (1, 2, 3):
        micro = multiclass_accuracy(p, t, 4, average="micro", top_k=k)
        macro = multiclass_accuracy(p, t, 4, average="macro", top_k=k)
        assert topk_accuracy(y, proba, k) == pytest.approx(float(micro), abs=1e-6)
        assert balanced_topk_accuracy(y, proba, k) == pytest.approx(float(macro), abs=1e-6)
    assert macro_f1(t, p.argmax(1)) == pytest.approx(float(multiclass_f1_score(p, t, 4)), abs=1e-6)


def test_probability_metrics_agree_with_scikit_learn():
    y, proba = _problem()
    assert nll(y, proba) == pytest.approx(peer.log_loss(y, proba), abs=1e-10)
    assert brier(y, proba) == pytest.approx(np.square(proba - np.eye(4)[y]).sum(1).mean(), abs=1e-12)
    binary = proba[:, :2] / proba[:, :2].sum(1, keepdims=True)
    half = peer.brier_score_loss(y > 0, binary[:, 1])
    assert brier((y > 0).astype(int), binary) == pytest.approx(2 * half, abs=1e-12)


def test_class_names_map_to_columns_in_the_order_given():
    y, proba = _problem()
    names = np.array(["w", "a", "k", "c"])
    for metric in (nll, brier, lambda *a, **k: topk_accuracy(*a, 2, **k)):
        assert metric(names[y], proba, classes=names) == metric(y, proba)


def test_topk_is_one_at_all_classes_and_chance_for_constant_scores():
    y, proba = _problem()
    assert topk_accuracy(y, proba, 4) == 1.0
    assert topk_accuracy(y, np.zeros_like(proba), 3) == pytest.approx(3 / 4)
    assert balanced_topk_accuracy(y, np.zeros_like(proba), 1) == pytest.approx(1 / 4)


def test_top1_is_accuracy_and_balanced_top1_is_balanced_accuracy():
    y, proba = _problem()
    assert topk_accuracy(y, proba, 1) == pytest.approx(accuracy(y, proba.argmax(1)))
    assert balanced_topk_accuracy(y, proba, 1) == pytest.approx(balanced_accuracy(y, proba.argmax(1)))


def test_true_probabilities_minimise_nll_and_brier_in_expectation():
    rng = np.random.default_rng(100)
    p = np.array([0.6, 0.3, 0.1])
    y = rng.choice(3, 20_000, p=p)
    for metric in (nll, brier):
        at_truth = metric(y, np.tile(p, (len(y), 1)))
        for q in ([0.7, 0.2, 0.1], [1 / 3] * 3, [0.5, 0.4, 0.1]):
            assert metric(y, np.tile(q, (len(y), 1))) > at_truth


def test_nll_of_a_confident_mistake_is_finite():
    assert nll([0], [[0.0, 1.0]]) == pytest.approx(-np.log(np.finfo(float).eps))


def test_worst_group_is_the_minimum_over_groups_taken_apart():
    y, proba = _problem()
    pred, groups = proba.argmax(1), np.array(["n", "s", "w"])[np.random.default_rng(101).integers(0, 3, 200)]
    found = worst_group(accuracy, y, pred, groups)
    alone = {g: float((y == pred)[groups == g].mean()) for g in "nsw"}
    assert found.values == pytest.approx(alone)
    assert found.worst == min(alone.values())
    assert found.group == min(alone, key=alone.get)
    assert found.gap == pytest.approx(max(alone.values()) - min(alone.values()))
    assert sum(found.counts.values()) == 200
    mean = sum(found.values[g] * found.counts[g] for g in "nsw") / 200
    assert mean == pytest.approx(accuracy(y, pred))


def test_worst_group_of_a_loss_is_the_largest_and_takes_probabilities():
    y, proba = _problem()
    found = worst_group(nll, torch.as_tensor(y), torch.as_tensor(proba), y % 2, higher_is_better=False)
    assert found.worst == max(found.values.values()) == found.values[found.group]


def test_classification_refuses_bad_input():
    y, proba = _problem()
    with pytest.raises(ValueError, match="lengths differ"):
        accuracy([0, 1], [0])
    with pytest.raises(ValueError, match="empty"):
        accuracy([], [])
    with pytest.raises(ValueError, match="class labels"):
        accuracy([0.5, 1], [0, 1])
    with pytest.raises(ValueError, match="class labels"):
        accuracy([float("nan"), 1], [0, 1])
    with pytest.raises(ValueError, match="distributions, but row 0"):
        nll(y, proba * 2)
    with pytest.raises(ValueError, match=r"y must lie in \[0, 4\)"):
        brier(y + 4, proba)
    with pytest.raises(ValueError, match="not among the classes"):
        nll(["a", "z"], [[0.5, 0.5]] * 2, classes=["a", "b"])
    with pytest.raises(ValueError, match="k must be in"):
        topk_accuracy(y, proba, 5)
    with pytest.raises(ValueError, match="lengths differ"):
        worst_group(accuracy, [0, 1], [0, 1], ["a"])
    with pytest.raises(ValueError, match="finite"):
        topk_accuracy(y, np.where(proba > 0.9, np.nan, proba), 1)
