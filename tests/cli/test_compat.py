from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from holdfast.cli.compat import app

run = CliRunner().invoke


@pytest.fixture
def service(tmp_path):
    """Three models around common class directions, each tighter than the one before."""
    rng = np.random.default_rng(100)
    y = np.arange(200) % 5
    centres = rng.normal(size=(5, 8))
    folder = tmp_path / "models"
    folder.mkdir()
    for t, spread in enumerate((1.5, 0.9, 0.4)):
        np.save(folder / f"v{t}.npy", centres[y] + spread * rng.normal(size=(200, 8)))
    np.save(folder / "y.npy", y)
    return folder


def _json(folder, *args):
    result = run(app, ["matrix", "--embeddings", str(folder), "--labels", f"{folder}/y.npy", "--json", *args])
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def test_models_that_improve_around_common_directions_are_compatible(service):
    out = _json(service)
    assert out["models"] == ["v0", "v1", "v2"]
    assert [len(row) for row in out["matrix"]] == [1, 2, 3]
    assert out["ac"] == 1.0
    assert out["aa"] == pytest.approx(np.mean(np.concatenate(out["matrix"])))
    assert all(d["same_new"] <= d["same_old"] for d in out["definition"])
    assert (out["gallery"], out["queries"]) == (100, 100)


def test_a_rotated_update_breaks_the_old_gallery(service):
    z = np.load(service / "v2.npy")
    np.save(service / "v2.npy", np.roll(z, 3, axis=1))
    out = _json(service)
    assert out["matrix"][2][2] > 0.9
    assert out["matrix"][2][0] < 0.6
    assert out["ac"] == pytest.approx(1 / 3)


def test_the_gallery_can_be_given(service):
    np.save(service.parent / "rows.npy", np.arange(50))
    out = _json(service, "--gallery", f"{service.parent}/rows.npy")
    assert (out["gallery"], out["queries"]) == (50, 150)


def test_the_table_says_which_update_helps(service):
    result = run(app, ["matrix", "--embeddings", str(service), "--labels", f"{service}/y.npy"])
    assert result.exit_code == 0, result.output
    for word in ("AC 1.000", "AA", "v0 to v1: same class no farther", "gallery 100, queries 100"):
        assert word in result.output


def test_bad_input_is_named(service, tmp_path):
    def message(*args):
        result = run(app, ["matrix", *args])
        assert result.exit_code != 0
        return str(result.exception)

    assert "no folder at" in message("--embeddings", "nowhere", "--labels", f"{service}/y.npy")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no .npy" in message("--embeddings", str(empty), "--labels", f"{service}/y.npy")
    np.save(service / "v3.npy", np.zeros((7, 8)))
    both = ("--embeddings", str(service), "--labels", f"{service}/y.npy")
    assert "embeddings of the 200 samples, got float64 of shape (7, 8)" in message(*both)
    np.save(service / "v3.npy", np.ones((200, 5)))
    assert "model 0 has 8 dimensions and model 3 has 5" in message(*both)
    np.save(service / "y.npy", np.r_[np.zeros(199), 1])
    (service / "v3.npy").unlink()
    assert "class 1.0 has one sample" in message(*both)
