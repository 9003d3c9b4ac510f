import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn.calibration import calibration_curve
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from holdfast.metrics import (
    classwise_ece,
    expected_calibration_error,
    fit_temperature,
    nll,
    reliability_curve,
)


def _problem(seed=100, n=500, c=4, scale=2.0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, c, n)
    z = torch.as_tensor(rng.normal(size=(n, c)) * scale + 1.5 * np.eye(c)[y])
    return torch.as_tensor(y), z


@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
@pytest.mark.parametrize("n_bins", [5, 15])
def test_equal_width_agrees_with_torchmetrics(norm, n_bins):
    y, z = _problem()
    p = z.softmax(1)
    expected = float(multiclass_calibration_error(p, y, 4, n_bins=n_bins, norm=norm))
    assert expected_calibration_error(y, p, n_bins, norm=norm) == pytest.approx(expected, abs=1e-6)


def test_reliability_curve_agrees_with_scikit_learn_in_both_binnings():
    y, z = _problem()
    p = z.softmax(1).numpy()
    hit, confidence = (p.argmax(1) == y.numpy()).astype(int), p.max(1)
    for binning, strategy in (("width", "uniform"), ("mass", "quantile")):
        curve = reliability_curve(y, p, 10, binning=binning)
        truth, said = calibration_curve(hit, confidence, n_bins=10, strategy=strategy)
        if binning == "width":
            np.testing.assert_allclose(curve.accuracy, truth, atol=1e-12)
            np.testing.assert_allclose(curve.confidence, said, atol=1e-12)
        else:  # scikit-learn interpolates its quantiles, so that a bin may differ by one sample
            np.testing.assert_allclose(curve.confidence, said, atol=0.01)
        assert int(curve.count.sum()) == len(y)


def test_equal_mass_bins_hold_equally_many_and_keep_ties_together():
    y, z = _problem(n=500)
    assert set(reliability_curve(y, z.softmax(1), 10, binning="mass").count.tolist()) == {50.0}
    tied = np.tile([[0.8, 0.2]], (30, 1))
    assert reliability_curve(np.zeros(30, int), tied, 10, binning="mass").count.tolist() == [30.0]


@pytest.mark.parametrize("binning", ["width", "mass"])
def test_error_is_invariant_to_row_order(binning):
    rng = np.random.default_rng(100)
    y, p1 = rng.integers(0, 2, 300), rng.integers(50, 100, 300) / 100
    p = np.c_[p1, 1 - p1]
    order = rng.permutation(300)
    assert expected_calibration_error(y, p, 7, binning=binning) == pytest.approx(
        expected_calibration_error(y[order], p[order], 7, binning=binning), abs=1e-12
    )


def test_one_bin_gives_the_gap_between_accuracy_and_mean_confidence():
    y, z = _problem()
    p = z.softmax(1)
    gap = abs(float((p.argmax(1) == y).double().mean() - p.amax(1).mean()))
    for binning in ("width", "mass"):
        assert expected_calibration_error(y, p, 1, binning=binning) == pytest.approx(gap, abs=1e-12)


def test_perfectly_calibrated_predictions_have_small_error_and_confident_lies_have_one():
    rng = np.random.default_rng(100)
    p1 = rng.uniform(size=200_000)
    y = (rng.random(200_000) > p1).astype(int)
    p = np.c_[p1, 1 - p1]
    assert expected_calibration_error(y, p) < 0.01
    assert classwise_ece(y, p) < 0.01
    assert expected_calibration_error([1, 1], [[1.0, 0.0]] * 2) == 1.0


def test_classwise_error_is_the_mean_of_binary_errors():
    y, z = _problem()
    p = z.softmax(1)
    expected = []
    for c in range(4):
        edges = np.clip((p[:, c].numpy() * 15).astype(int), 0, 14)
        e = 0
        for b in range(15):
            rows = edges == b
            if rows.any():
                e += abs(float((y[rows] == c).double().sum() - p[rows, c].sum())) / len(y)
        expected.append(e)
    assert classwise_ece(y, p) == pytest.approx(np.mean(expected), abs=1e-10)
    # Two classes: both columns have mirrored errors, each that of torchmetrics' binary metric on the positive class.
    binary = p[:, :2] / p[:, :2].sum(1, keepdim=True)
    target = (y > 0).long()
    assert classwise_ece(target, binary) == pytest.approx(
        float(binary_calibration_error(binary[:, 1], target, n_bins=15)), abs=0.01
    )


@pytest.mark.parametrize("scale", [0.8, 2.0, 5.0])
def test_temperature_is_the_minimum_of_the_loss(scale):
    y, z = _problem(scale=scale)
    t = fit_temperature(z, y)
    peer = minimize_scalar(lambda u: nll(y, (z / np.exp(u)).softmax(1)), bounds=(-4, 4), method="bounded")
    assert t == pytest.approx(np.exp(peer.x), rel=1e-3)
    h = 1e-4
    best = nll(y, (z / t).softmax(1))
    assert best <= nll(y, (z / (t * (1 + h))).softmax(1)) + 1e-12
    assert best <= nll(y, (z / (t * (1 - h))).softmax(1)) + 1e-12


def test_temperature_scales_with_the_logits_and_ignores_shifts():
    y, z = _problem()
    t = fit_temperature(z, y)
    assert fit_temperature(3 * z, y) == pytest.approx(3 * t, rel=1e-8)
    assert fit_temperature(z + torch.arange(len(z))[:, None], y) == pytest.approx(t, rel=1e-8)


def test_temperature_recovers_the_scale_that_made_the_labels():
    z = torch.as_tensor(np.random.default_rng(100).normal(size=(20_000, 3)) * 2)
    y = torch.multinomial(z.softmax(1), 1, generator=torch.Generator().manual_seed(100))[:, 0]
    assert fit_temperature(4 * z, y) == pytest.approx(4, rel=0.05)


def test_temperature_stops_at_the_bounds():
    assert fit_temperature([[1.0, 0.0]] * 3, [0, 0, 0]) == 0.01
    assert fit_temperature([[1.0, 0.0]] * 3, [1, 1, 1]) == 100.0


def test_calibration_refuses_bad_input():
    y, z = _problem()
    p = z.softmax(1)
    with pytest.raises(ValueError, match="distributions"):
        expected_calibration_error(y, z)
    with pytest.raises(ValueError, match="binning"):
        expected_calibration_error(y, p, binning="quantile")
    with pytest.raises(ValueError, match="norm"):
        expected_calibration_error(y, p, norm="l3")
    with pytest.raises(ValueError, match="n_bins"):
        classwise_ece(y, p, 0)
    with pytest.raises(ValueError, match="labels but logits"):
        fit_temperature(z, y[:-1])
    with pytest.raises(ValueError, match="finite"):
        fit_temperature(z.log(), y)
