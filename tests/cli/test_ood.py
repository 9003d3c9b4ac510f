import json

import numpy as np
import pytest
from typer.testing import CliRunner

from holdfast.cli.ood import app
from holdfast.representation.ood import KNN, OODDetector

run = CliRunner().invoke


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(100)
    centers, weight = 5 * rng.normal(size=(3, 8)), rng.normal(size=(8, 3))

    def write(name, x, y):
        np.savez(tmp_path / f"{name}.npz", features=x, labels=y, logits=x @ weight)

    for name, n in (("train", 300), ("held", 200)):
        y = np.arange(n) % 3
        write(name, centers[y] + rng.normal(size=(n, 8)), y)
    write("far", 15 * rng.normal(size=(100, 8)), np.zeros(100, dtype=int))
    return tmp_path


@pytest.mark.parametrize("detector", ["msp", "energy", "mahalanobis", "knn", "vim", "grouped-gaussian"])
def test_fit_then_score_marks_about_the_share_left_out_and_nearly_all_outliers(files, detector):
    out = files / "d.safetensors"
    options = ["--groups", "2"] if detector == "grouped-gaussian" else []
    fitted = run(app, ["fit", f"{files}/train.npz", "-o", str(out), "--detector", detector,
                       "--calibration", f"{files}/held.npz", *options])  # fmt: skip
    assert fitted.exit_code == 0, fitted.output
    assert "threshold" in fitted.output
    known = run(app, ["score", str(out), f"{files}/held.npz"]).output.splitlines()
    assert known[0] == "row,score,outlier"
    marked = np.mean([line.endswith(",1") for line in known[1:]])
    assert marked == pytest.approx(0.05, abs=0.011)
    if detector not in ("msp", "energy"):
        far = run(app, ["score", str(out), f"{files}/far.npz"]).output.splitlines()
        assert np.mean([line.endswith(",1") for line in far[1:]]) > 0.9


def test_written_scores_are_the_detectors(files):
    out = files / "d.safetensors"
    assert run(app, ["fit", f"{files}/train.npz", "-o", str(out), "--k", "7"]).exit_code == 0
    detector, far = OODDetector.load(out), np.load(files / "far.npz")
    assert detector == KNN(k=7)
    expected = detector.score(far["features"])
    assert run(app, ["score", str(out), f"{files}/far.npz", "-o", f"{files}/s.npy"]).exit_code == 0
    np.testing.assert_array_equal(np.load(files / "s.npy"), expected)
    assert run(app, ["score", str(out), f"{files}/far.npz", "-o", f"{files}/s.csv"]).exit_code == 0
    table = np.loadtxt(files / "s.csv", delimiter=",", skiprows=1)
    np.testing.assert_allclose(table[:, 1], expected, rtol=1e-8)


def test_compare_covers_every_detector_and_says_why_one_is_left_out(files):
    args = ["compare", f"{files}/train.npz", "--in", f"{files}/held.npz", "--out", f"{files}/far.npz"]
    result = json.loads(run(app, [*args, "--json"]).output)
    assert {r["detector"] for r in result["rows"]} == {
        "msp", "max-logit", "energy", "mahalanobis", "knn", "vim", "grouped-gaussian",
    }  # fmt: skip
    assert all(r["auroc"] > 0.9 for r in result["rows"] if r["detector"] in ("mahalanobis", "knn"))
    np.savez(files / "bare.npz", features=np.load(files / "train.npz")["features"])
    args[1] = f"{files}/bare.npz"
    result = json.loads(run(app, [*args, "--json"]).output)
    assert {r["detector"] for r in result["rows"]} == {"knn"}
    assert result["skipped"]["mahalanobis"] == "needs labels"
    printed = run(app, args).output
    assert "AUROC" in printed
    assert "needs logits" in printed


@pytest.mark.parametrize(
    ("match", "args"),
    [
        ("no file", ["fit", "nowhere.npz"]),
        ("detector must be one of", ["fit", "{}/train.npz", "--detector", "magic"]),
        ("has no setting k", ["fit", "{}/train.npz", "--detector", "msp", "--k", "3"]),
        ("shrinkage must be", ["fit", "{}/train.npz", "--detector", "mahalanobis", "--shrinkage", "some"]),
        ("do not divide", ["fit", "{}/train.npz", "--detector", "grouped-gaussian", "--groups", "3"]),
        ("coverage", ["fit", "{}/train.npz", "--coverage", "1.0"]),
        ("not a .npz", ["fit", "{}/text.npz"]),
        ("features or logits", ["fit", "{}/other.npz"]),
        ("not a readable detector", ["score", "{}/text.npz", "{}/far.npz"]),
    ],
)
def test_bad_input_is_refused_by_name(files, match, args):
    (files / "text.npz").write_text("hello")
    np.savez(files / "other.npz", a=np.zeros(2))
    result = run(app, [a.format(files) for a in args] + (["-o", f"{files}/d"] if args[0] == "fit" else []))
    assert result.exit_code == 1
    assert match in str(result.exception)
