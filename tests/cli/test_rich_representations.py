from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from holdfast.cli.rich_representations import app

RUN = CliRunner()


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, columns in (("source", (0, 1)), ("target", (1, 2))):
        x = rng.normal(size=(200, 3))
        y = x[:, columns[0]] + x[:, columns[1]] > 0
        rows = [f"{a:.4f},{b:.4f},{c:.4f},{'yes' if v else 'no'}" for (a, b, c), v in zip(x, y)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["a,b,c,label", *rows]) + "\n")
    return tmp_path


@pytest.mark.parametrize("command", ["train", "distill"])
def test_trained_model_is_probed_on_another_task(tables: Path, command: str) -> None:
    model = str(tables / "model")
    arguments = [command, str(tables / "source.csv"), "--out", model, "--episodes", "2", "--epochs", "10"]
    done = RUN.invoke(app, [*arguments, "--size", "tiny", "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["episodes"] == 2
    assert report["distilled"] == (command == "distill")
    assert report["held_out_accuracy"] > 0.7
    done = RUN.invoke(app, ["probe", model, str(tables / "target.csv"), "--json"])
    assert done.exit_code == 0, done.output
    probed = json.loads(done.stdout)
    assert probed["features"] == report["features"]
    assert 0.4 < probed["accuracy_1_episode"] <= 1
    assert ("accuracy_2_episodes" in probed) == (command == "train")


def test_wrong_options_are_refused(tables: Path) -> None:
    source = str(tables / "source.csv")
    done = RUN.invoke(app, ["train", source, "--out", str(tables / "m"), "--episodes", "0", "--json"])
    assert "n_episodes" in str(done.exception)
    done = RUN.invoke(app, ["distill", source, "--out", str(tables / "m"), "--temperature", "0", "--json"])
    assert "temperature" in str(done.exception)
    done = RUN.invoke(app, ["probe", str(tables / "m"), source, "--test-fraction", "1"])
    assert "test-fraction" in str(done.exception)
