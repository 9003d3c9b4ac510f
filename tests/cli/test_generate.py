import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from holdfast.cli import main
from holdfast.cli.generate import app
from holdfast.cli.generate_data import read_generation_data
from holdfast.core import load

run = CliRunner().invoke
_FAST = ["--size", "tiny", "--steps", "3", "--batch-size", "16", "--samples", "10", "--device", "cpu"]


@pytest.fixture(scope="module")
def pngs(tmp_path_factory):
    """Grey 8 x 8 pictures in two class folders, bright above or below."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(100)
    for i in range(280):
        x = rng.integers(0, 60, (8, 8))
        kind = ("up", "down")[i % 2]
        x[:4] += 180 * (kind == "up")
        x[4:] += 180 * (kind == "down")
        (root / kind).mkdir(exist_ok=True)
        Image.fromarray(x.astype(np.uint8)).save(root / kind / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def trained(pngs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "out"
    result = run(app, ["train", "--data", str(pngs), "--labels", "--guidance", "1.5", "--out", str(folder), *_FAST])
    assert result.exit_code == 0, result.output
    return folder, result.output


def test_training_leaves_a_model_grids_a_summary_and_a_page(trained):
    folder, output = trained
    assert "Fréchet distance" in output
    assert load(folder / "model.holdfast").classes_.tolist() == ["down", "up"]
    grids = sorted(p.name for p in (folder / "samples").iterdir())
    assert grids == ["step-000001.png", "step-000002.png", "step-000003.png"]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["evaluation"]["space"] == "64 features of a classifier"
    assert [s["steps"] for s in summary["evaluation"]["steps"]] == [2, 5, 10, 20, 40]
    assert {"scores", "real", "trivial"} <= summary["evaluation"].keys()
    assert summary["n"] == 224  # a fifth is held out
    page = (folder / "report.html").read_text()
    for part in ("data:image/png;base64,", "Fréchet distance over sampler steps", "accuracy of a linear probe"):
        assert part in page
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "<script" not in page


def test_the_same_command_again_goes_on_and_ends_with_the_same_model(trained, pngs):
    folder, _ = trained
    before = load(folder / "model.holdfast").sample(2, "up", steps=2, random_state=0)
    result = run(app, ["train", "--data", str(pngs), "--labels", "--guidance", "1.5", "--out", str(folder), *_FAST])
    assert result.exit_code == 0, result.output
    after = load(folder / "model.holdfast").sample(2, "up", steps=2, random_state=0)
    np.testing.assert_array_equal(before, after)


def test_samples_are_a_grid_arrays_or_files(trained, tmp_path):
    folder, _ = trained
    options = ["--n", "6", "--steps", "2", "--seed", "3", "--label", "up,down"]
    for out in ("grid.png", "a.npz", "b.npy", "folder"):
        result = run(app, ["sample", str(folder), *options, "--out", str(tmp_path / out)])
        assert result.exit_code == 0, result.output
        assert "6 samples in" in result.output
    arrays = np.load(tmp_path / "a.npz")
    assert arrays["x"].shape == (6, 1, 8, 8)
    assert arrays["y"].tolist() == ["up", "down"] * 3
    np.testing.assert_array_equal(arrays["x"], np.load(tmp_path / "b.npy"))
    files = sorted((tmp_path / "folder").iterdir())
    assert [f.name for f in files[:2]] == ["00000-up.png", "00001-down.png"]
    np.testing.assert_array_equal(np.asarray(Image.open(files[0])), arrays["x"][0, 0])
    said = run(app, ["sample", str(folder), "--n", "2", "--steps", "1", "--out", str(tmp_path / "c.png"), "--json"])
    assert json.loads(said.output)["n"] == 2


def test_evaluation_uses_the_classifier_beside_the_model_or_any_other(trained, pngs, tmp_path):
    folder, _ = trained
    args = ["evaluate", str(folder), "--data", str(pngs), "--steps", "1,2", "--samples", "20", "--out", str(tmp_path)]
    beside = json.loads(run(app, [*args, "--json"]).stdout)
    named = json.loads(run(app, [*args, "--json", "--features", str(folder / "features.holdfast")]).stdout)
    assert beside["evaluation"]["space"] == "64 features of a classifier"
    assert named["evaluation"]["space"] == "features of features"
    for key in ("frechet", "recall"):
        assert beside["evaluation"]["scores"][key] == pytest.approx(named["evaluation"]["scores"][key])
    assert (tmp_path / "report.html").is_file()


def test_without_labels_the_space_says_that_it_is_random(pngs, tmp_path):
    args = ["train", "--data", str(pngs), "--align", "self", "--out", str(tmp_path / "o"), "--json", *_FAST]
    summary = json.loads(run(app, args).stdout)
    assert summary["evaluation"]["space"] == "64 features of random convolutions (seed 0)"
    assert summary["align"] == "self"
    assert "was never trained" in (tmp_path / "o" / "report.html").read_text()


def test_vectors_train_too(tmp_path):
    np.savez(tmp_path / "v.npz", x=np.random.default_rng(0).normal(size=(100, 3)), y=np.arange(100) % 2)
    out = tmp_path / "o"
    result = run(app, ["train", "--data", str(tmp_path / "v.npz"), "--out", str(out), *_FAST])
    assert result.exit_code == 0, result.output
    assert not (out / "samples").exists()
    assert "independent" in result.output or "Gaussian" in result.output
    assert run(app, ["sample", str(out), "--n", "4", "--out", str(tmp_path / "s.npy")]).exit_code == 0
    assert np.load(tmp_path / "s.npy").shape == (4, 3)


def test_data_are_read_from_folders_arrays_and_names(pngs, tmp_path):
    data = read_generation_data(str(pngs), labels=True)
    assert data.x.shape == (280, 1, 8, 8)
    assert sorted(set(data.y)) == ["down", "up"]
    assert read_generation_data(str(pngs), size=12, channels=3, limit=7).x.shape == (7, 3, 12, 12)
    np.savez(tmp_path / "a.npz", images=np.zeros((5, 4, 4)), label=np.arange(5))
    assert read_generation_data(str(tmp_path / "a.npz")).y is None
    assert read_generation_data(str(tmp_path / "a.npz"), labels=True).y.tolist() == [0, 1, 2, 3, 4]
    assert read_generation_data("iris", labels=True).x.shape == (150, 4)


def _write(folder):
    rng = np.random.default_rng(0)
    flat = folder / "flat"
    flat.mkdir()
    for i in range(3):
        Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8)).save(flat / f"{i}.png")
    uneven = folder / "uneven"
    uneven.mkdir()
    for i in range(3):
        Image.fromarray(rng.integers(0, 255, (8 + i, 8), dtype=np.uint8)).save(uneven / f"{i}.png")
    (folder / "empty").mkdir()
    broken = folder / "broken"
    broken.mkdir()
    (broken / "a.png").write_bytes(b"not a picture")
    np.savez(folder / "range.npz", x=rng.normal(0, 9, (90, 8, 8)))
    holed = rng.random((90, 8, 8))
    holed[4, 2, 2] = np.nan
    np.savez(folder / "nan.npz", x=holed)
    np.savez(folder / "odd.npz", x=rng.random((90, 9, 9)))
    np.savez(folder / "ok.npz", x=rng.random((90, 8, 8)))
    np.savez(folder / "named.npz", pictures=rng.random((90, 8, 8)))
    return folder


@pytest.mark.parametrize(
    ("match", "args"),
    [
        ("there is nothing at no/where", ["train", "--data", "no/where"]),
        ("there is no data set 'fashon-mnist'", ["train", "--data", "fashon-mnist"]),
        ("holds no images", ["train", "--data", "{}/empty"]),
        ("is no readable image", ["train", "--data", "{}/broken"]),
        ("--image-size 8 resizes all", ["train", "--data", "{}/uneven"]),
        ("flat holds 3 samples; a generator needs at least 60", ["train", "--data", "{}/flat"]),
        ("lies in no class folder", ["train", "--data", "{}/flat", "--labels"]),
        ("must have values in [0, 1] or [-1, 1]", ["train", "--data", "{}/range.npz"]),
        ("must be finite, but row 4 holds nan", ["train", "--data", "{}/nan.npz"]),
        ("a multiple of 4, got 9 x 9", ["train", "--data", "{}/odd.npz", "--network", "unet"]),
        ("patch=2 for 9 x 9", ["train", "--data", "{}/odd.npz", "--network", "dit", "--patch", "2"]),
        ("has no array named x", ["train", "--data", "{}/named.npz"]),
        ("has no array named y or label", ["train", "--data", "{}/ok.npz", "--labels"]),
        ("--guidance needs --labels", ["train", "--data", "{}/ok.npz", "--guidance", "2"]),
        ("align must be 'self'", ["train", "--data", "{}/ok.npz", "--align", "slef"]),
        ("give align=encoder", ["train", "--data", "{}/ok.npz", "--warmup", "5"]),
        ("there is no model at nowhere", ["train", "--data", "{}/ok.npz", "--features", "nowhere"]),
        ("network must be one of", ["train", "--data", "{}/ok.npz", "--network", "gan"]),
        ("--image-size resizes folders and named data sets", ["train", "--data", "{}/ok.npz", "--image-size", "8"]),
        ("steps must be in [1, inf), got 0", ["train", "--data", "{}/ok.npz", "--steps", "0"]),
        ("--value-range must be two numbers", ["train", "--data", "{}/range.npz", "--value-range", "9"]),
        ("--limit must be in [2, inf)", ["train", "--data", "{}/ok.npz", "--limit", "1"]),
        ("there is no model at nowhere", ["sample", "nowhere"]),
    ],
)
def test_bad_input_is_one_line_and_status_one(tmp_path, capsys, monkeypatch, match, args):
    _write(tmp_path)
    monkeypatch.setattr("sys.argv", ["holdfast", "generate", *(a.format(tmp_path) for a in args)])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    assert not (tmp_path / "holdfast-runs").exists()  # refused before anything was trained
    assert match in said[0]


def test_bad_samples_are_one_line(trained, tmp_path):
    folder, _ = trained
    for args, match in (
        (["--label", "left"], "'left' is no class of this model; it has down, up"),
        (["--sampler", "magic"], "sampler must be one of"),
        (["--out", str(tmp_path / "a.gif")], "must be a .png grid"),
    ):
        result = run(app, ["sample", str(folder), "--n", "2", *args])
        assert match in str(result.exception)
    result = run(app, ["sample", str(folder / "features.holdfast")])
    assert "holds a NeuralClassifier, not a generator" in str(result.exception)
    result = run(app, ["evaluate", str(folder), "--data", "iris", "--steps", "1,x"])
    assert "--steps must be whole numbers" in str(result.exception)
