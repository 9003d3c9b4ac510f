from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from typer.testing import CliRunner

from holdfast.cli.main import app
from holdfast.distribution.embedding.estimator import DistributionEmbedding
from holdfast.study.report.embedding import code_map, principal_plane

run = CliRunner().invoke
FAST = ["--steps", "3", "--width", "16", "--code-dim", "4", "--set-size", "8", "--stops", "3", "--points", "6",
        "--device", "cpu"]  # fmt: skip


@pytest.fixture
def cells(tmp_path):
    rng = np.random.default_rng(100)
    frame = pd.DataFrame(rng.normal(size=(120, 3)), columns=["a", "b", "c"])
    frame["donor"] = np.repeat(["d1", "d2", "d3"], 40)
    frame.loc[frame.donor == "d3", "a"] += 5
    frame.to_csv(tmp_path / "cells.csv", index=False)
    return tmp_path


def _embed(cells, *more):
    return run(
        app, ["embed", "--data", f"{cells}/cells.csv", "--group", "donor", "--out", f"{cells}/out", *FAST, *more]
    )


def test_it_writes_codes_a_map_an_interpolation_a_model_and_a_page(cells):
    result = _embed(cells, "--json", "--between", "d2,d3")
    assert result.exit_code == 0, result.output
    summary, out = json.loads(result.stdout), cells / "out"
    codes = pd.read_csv(out / "embeddings.csv")
    assert codes.donor.tolist() == ["d1", "d2", "d3"]
    assert codes.points.tolist() == [40] * 3
    frame = pd.read_csv(cells / "cells.csv")
    model = DistributionEmbedding.load(out / "model.holdfast")
    np.testing.assert_allclose(codes.filter(like="z"), model.transform(frame, group="donor"), atol=1e-5)
    way = pd.read_csv(out / "interpolation.csv")
    assert way.columns.tolist() == ["share", "a", "b", "c"]
    assert way.share.value_counts().to_dict() == {0.0: 6, 0.5: 6, 1.0: 6}
    assert summary["between"] == ["d2", "d3"]
    page = (out / "report.html").read_text()
    assert all(g in page for g in ("d1", "d2", "d3"))
    assert "<svg" in page
    svg = (out / "map.svg").read_text()
    assert all(f">{g}</text>" in svg for g in ("d1", "d2", "d3"))


def test_matrices_of_counts_are_read_and_normalised(tmp_path):
    rng = np.random.default_rng(100)
    m = csr_matrix(rng.poisson(1.0, (60, 8)))
    np.savez(
        tmp_path / "cells.npz", data=m.data, indices=m.indices, indptr=m.indptr, shape=np.array(m.shape),
        condition=np.repeat([0, 1, 2], 20), kind=np.repeat([1, 0], 30), kind_names=np.array(["B cell", "T cell"]),
    )  # fmt: skip
    result = run(
        app,
        ["embed", "--data", f"{tmp_path}/cells.npz", "--group", "condition", "--log-counts", "--components", "3",
         "--out", f"{tmp_path}/out", *FAST],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert pd.read_csv(tmp_path / "out/embeddings.csv").condition.tolist() == [0, 1, 2]
    named = run(app, ["embed", "--data", f"{tmp_path}/cells.npz", "--group", "kind", "--out", f"{tmp_path}/2", *FAST])
    assert named.exit_code == 0, named.output
    assert pd.read_csv(tmp_path / "2/embeddings.csv").kind.tolist() == ["B cell", "T cell"]
    bad = run(app, ["embed", "--data", f"{tmp_path}/cells.npz", "--group", "conditon", *FAST])
    assert "did you mean 'condition'" in str(bad.exception)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--columns", "a,bb"], "no column 'bb' (given as columns)"),
        (["--between", "d1,d4"], "there is no group 'd4' in column 'donor'"),
        (["--between", "d1"], "--between takes two groups A,B"),
        (["--encoder", "resnt"], "there is no encoder 'resnt'; did you mean 'resnet'"),
        (["--stops", "1"], "stops must be in"),
    ],
)
def test_a_wrong_input_says_what_is_wrong(cells, given, said):
    result = _embed(cells, *given)
    assert result.exit_code == 1
    assert said in str(result.exception)


def test_a_wrong_group_column_is_named_with_the_right_one(cells):
    result = run(app, ["embed", "--data", f"{cells}/cells.csv", "--group", "doner", *FAST])
    assert "cells.csv has no column 'doner' (given as group); did you mean 'donor'?" in str(result.exception)


def test_the_plane_keeps_most_of_the_variance():
    z = np.random.default_rng(100).normal(size=(50, 5)) * [5, 3, 1, 1, 1]
    _, plane, share = principal_plane(z)
    np.testing.assert_allclose(plane.T @ plane, np.eye(2), atol=1e-10)
    values = np.sort(np.linalg.eigvalsh(np.cov(z.T)))
    assert share == pytest.approx(values[-2:].sum() / values.sum())


def test_a_map_marks_every_group_and_every_part_and_keeps_names_apart():
    svg = code_map(np.zeros((3, 4)) + np.arange(3)[:, None] * 1e-3, ["a<b", "c", "d"], [np.full((5, 4), 9.0)] * 3)
    assert svg.count("<circle") == 3 + 15
    assert "a&lt;b" in svg
    places = [tuple(float(part.split(f' {k}="')[1].split('"')[0]) for k in "xy") for part in svg.split("<text")[1:4]]
    for i, (left, base) in enumerate(places):
        assert all(abs(base - b) >= 12 or abs(left - a) >= 6 for a, b in places[:i])
    with pytest.raises(ValueError, match="one for each name"):
        code_map(np.zeros((2, 4)), ["a"])
