import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from holdfast.metrics import (
    accuracy_at_coverage,
    aupr_in,
    aupr_out,
    aurc,
    auroc,
    excess_aurc,
    fpr_at_tpr,
    ood_metrics,
    risk_coverage_curve,
)


def _scores(ties, seed=100):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=153), rng.normal(size=87) + 1
    return (a.round(1), b.round(1)) if ties else (a, b)


@pytest.mark.parametrize("ties", [False, True])
def test_areas_agree_with_scikit_learn_and_torchmetrics(ties):
    inside, outside = _scores(ties)
    y, s = np.r_[np.zeros(153, int), np.ones(87, int)], np.r_[inside, outside]
    assert auroc(inside, outside) == pytest.approx(roc_auc_score(y, s), abs=1e-12)
    assert aupr_out(inside, outside) == pytest.approx(average_precision_score(y, s), abs=1e-12)
    assert aupr_in(inside, outside) == pytest.approx(average_precision_score(1 - y, -s), abs=1e-12)
    p = torch.as_tensor(1 / (1 + np.exp(-s)))
    assert auroc(inside, outside) == pytest.approx(float(binary_auroc(p, torch.as_tensor(y))), abs=1e-6)
    assert aupr_out(inside, outside) == pytest.approx(float(binary_average_precision(p, torch.as_tensor(y))), abs=1e-6)


@pytest.mark.parametrize("ties", [False, True])
def test_swapping_the_sets_gives_one_minus_auroc(ties):
    inside, outside = _scores(ties)
    assert auroc(outside, inside) == pytest.approx(1 - auroc(inside, outside), abs=1e-12)


def test_all_metrics_depend_on_ranks_only():
    inside, outside = _scores(True)
    before, after = ood_metrics(inside, outside), ood_metrics(np.exp(inside) * 3, np.exp(outside) * 3)
    assert before == pytest.approx(after, abs=1e-12)


def test_scores_that_say_nothing_are_at_chance():
    assert ood_metrics(np.zeros(30), np.zeros(10)) == {
        "auroc": 0.5,
        "fpr95": 1.0,
        "aupr_in": 0.75,
        "aupr_out": 0.25,
    }


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("tpr", [0.5, 0.8, 0.95, 1.0])
def test_fpr_agrees_with_the_roc_curve_of_scikit_learn(ties, tpr):
    inside, outside = _scores(ties)
    y, s = np.r_[np.zeros(153, int), np.ones(87, int)], np.r_[inside, outside]
    for positive, fpr, true in (
        ("out", *roc_curve(y, s, drop_intermediate=False)[:2]),
        ("in", *roc_curve(1 - y, -s, drop_intermediate=False)[:2]),
    ):
        assert fpr_at_tpr(inside, outside, tpr, positive=positive) == pytest.approx(
            fpr[np.argmax(true >= tpr)], abs=1e-12
        )
        first = np.r_[True, np.diff(true) > 0]  # the smallest false positive rate at each true positive rate
        i = np.argmax(true >= tpr)
        t0, f0 = true[i - 1], fpr[i - 1]
        linear = f0 + (tpr - t0) / (true[i] - t0) * (fpr[i] - f0)
        assert first[i]
        assert fpr_at_tpr(inside, outside, tpr, positive=positive, interpolation="linear") == pytest.approx(
            linear, abs=1e-12
        )


def test_fpr95_by_hand():
    # 20 in-distribution scores 1..20: the threshold that keeps 95 % is 19; of 18.5, 19, 19.5, 21 two pass.
    inside, outside = np.arange(1.0, 21.0), [18.5, 19.0, 19.5, 21.0]
    assert fpr_at_tpr(inside, outside) == 0.5
    # Out as positive: two of four are caught at 19.5, above one false alarm (20); three at 19 with two (20, 19).
    assert fpr_at_tpr(inside, outside, 0.5, positive="out") == pytest.approx(1 / 20)
    assert fpr_at_tpr(inside, outside, 0.75, positive="out") == pytest.approx(2 / 20)
    # Half way on the line between those two points.
    assert fpr_at_tpr(inside, outside, 0.625, positive="out", interpolation="linear") == pytest.approx(1.5 / 20)


def test_risk_coverage_by_hand_and_with_ties_averaged():
    coverage, risk = risk_coverage_curve([1, 0, 0, 1], [0.9, 0.1, 0.2, 0.3])
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    np.testing.assert_allclose(risk, [0, 0, 1 / 3, 1 / 2])
    np.testing.assert_allclose(risk_coverage_curve([1, 0, 0, 1], np.zeros(4))[1], [0.5] * 4)


def test_risk_coverage_does_not_depend_on_row_order_and_ends_at_the_mean_loss():
    rng = np.random.default_rng(100)
    loss, distrust = (rng.random(80) < 0.3).astype(float), rng.integers(0, 6, 80)
    p = rng.permutation(80)
    risk = risk_coverage_curve(loss, distrust)[1]
    np.testing.assert_allclose(risk, risk_coverage_curve(loss[p], distrust[p])[1], atol=1e-12)
    assert float(risk[-1]) == pytest.approx(loss.mean())


def test_tied_curve_is_the_expectation_over_orders_of_the_ties():
    rng = np.random.default_rng(101)
    loss, distrust = rng.random(12), rng.integers(0, 3, 12)
    jitter = [risk_coverage_curve(loss, distrust + 1e-3 * rng.random(12))[1].numpy() for _ in range(4000)]
    np.testing.assert_allclose(risk_coverage_curve(loss, distrust)[1], np.mean(jitter, 0), atol=0.02)


def test_excess_aurc_is_zero_for_the_oracle_and_positive_otherwise():
    rng = np.random.default_rng(100)
    loss = (rng.random(200) < 0.2).astype(float)
    assert excess_aurc(loss, loss) == 0
    assert aurc(loss, rng.random(200)) > aurc(loss, loss)
    assert aurc(loss, np.zeros(200)) == pytest.approx(loss.mean())
    k = int(loss.sum())  # closed form of the oracle: the k errors come last
    assert aurc(loss, loss) == pytest.approx(np.sum(np.arange(1, k + 1) / np.arange(200 - k + 1, 201)) / 200)


def test_accuracy_at_coverage_withholds_the_distrusted():
    correct, distrust = [1, 1, 1, 0], [0.1, 0.2, 0.3, 0.9]
    assert accuracy_at_coverage(correct, distrust, 0.75) == 1.0
    assert accuracy_at_coverage(correct, distrust, 1.0) == 0.75
    assert accuracy_at_coverage(correct, distrust, 0.8) == 0.75  # rounded up to four samples


@pytest.mark.parametrize("f", [auroc, aupr_in, aupr_out, fpr_at_tpr, ood_metrics])
def test_detection_refuses_nan_and_empty_sets(f):
    with pytest.raises(ValueError, match="ood_scores must be finite"):
        f([0.0, 1.0], [np.nan])
    with pytest.raises(ValueError, match="id_scores must not be empty"):
        f([], [1.0])
    with pytest.raises(ValueError, match="ood_scores must not be empty"):
        f([0.0], [])
    with pytest.raises(ValueError, match="dimension"):
        f([[0.0]], [1.0])


def test_detection_refuses_bad_options():
    with pytest.raises(ValueError, match="tpr"):
        fpr_at_tpr([0.0], [1.0], 0.0)
    with pytest.raises(ValueError, match="positive"):
        fpr_at_tpr([0.0], [1.0], positive="id")
    with pytest.raises(ValueError, match="interpolation"):
        fpr_at_tpr([0.0], [1.0], interpolation="cubic")
    with pytest.raises(ValueError, match="one length"):
        aurc([0, 1], [0.5])
