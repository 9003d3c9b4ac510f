"""A shipped model predicts a stream as it would the whole, for any modality, and refuses what it cannot read."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from fakes import fake, make_sites, spec_of
from PIL import Image

from holdfast.data import DataError, Environments, read
from holdfast.study.bundle import Bundle
from holdfast.study.predict import predict_stream
from holdfast.study.runner import run_study
from holdfast.study.sources import map_array
from holdfast.study.spec import parse_spec


def write_hospitals(path, n=180, seed=100):
    """Three hospitals with a numeric, a categorical and a partly missing column."""
    rng = np.random.default_rng(seed)
    sick = rng.random(n) < 0.5
    frame = pd.DataFrame(
        {
            "patient": [f"p{i}" for i in range(n)],
            "age": rng.normal(50, 10, n) + 12 * sick,
            "marker": np.where(rng.random(n) < 0.1, np.nan, rng.normal(size=n) + 2 * sick),
            "ward": np.where(sick ^ (rng.random(n) < 0.2), "east", "west"),
            "hospital": np.array(["north", "south", "coast"])[np.arange(n) % 3],
            "label": np.where(sick, "sick", "well"),
        }
    )
    frame.to_csv(path, index=False)
    return frame


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hospitals")
    frame = write_hospitals(folder / "visits.csv")
    fields = {
        "data": {
            "path": str(folder / "visits.csv"),
            "label": "label",
            "environment": "hospital",
            "attributes": ["patient"],
        },
        "methods": ["erm"],
        "seeds": 1,
        "steps": 40,
        "executor": {"workers": 0},
    }
    finished = run_study(parse_spec(fields), folder / "run")
    return frame, folder, finished


def test_the_model_is_saved_with_its_trust_and_what_to_expect(hospitals):
    _, _, finished = hospitals
    bundle = Bundle.load(finished.folder)
    assert bundle.info.environments == ["coast", "north", "south"]
    assert bundle.info.columns == {"age": "number", "marker": "number", "ward": "text"}
    assert finished.summary["settings"][0]["verdict"]["sentence"] in bundle.info.expect
    assert set(bundle.trust.environments_) == {"coast", "north", "south"}
    assert list(finished.models.values()) == [finished.folder / "model"]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("rows", [7, 64, 10_000])
def test_a_stream_gives_what_the_whole_table_gives(hospitals, tmp_path, suffix, rows):
    frame, folder, finished = hospitals
    bundle = Bundle.load(finished.folder)
    done = predict_stream(bundle, folder / "visits.csv", tmp_path / f"p.{suffix}", rows=rows, keep=["patient"])
    out = pd.read_csv(tmp_path / "p.csv") if suffix == "csv" else pd.read_parquet(tmp_path / "p.parquet")
    whole = bundle.predict(read(folder / "visits.csv", label="label", environment="hospital", drop=["patient"]).x)
    assert done.rows == len(out) == len(frame)
    assert out["patient"].tolist() == frame["patient"].tolist()
    assert (out["prediction"].to_numpy() == whole["prediction"].to_numpy()).all()
    for column in ("p_sick", "p_well"):
        np.testing.assert_allclose(out[column], whole[column], atol=1e-5)
    # Rows that calibrated the score tie with themselves, so rounding may move them by one rank.
    one_rank = 1 / (1 + len(bundle.trust.calibration_))
    for column in ("distrust", "p_value", "p_value_new"):
        np.testing.assert_allclose(out[column], whole[column], atol=one_rank + 1e-9)
    np.testing.assert_allclose(out["p_sick"] + out["p_well"], 1, atol=1e-5)
    assert out["distrust"].between(0, 1).all()
    assert sum(done.classes.values()) == sum(done.nearest.values()) == len(frame)


def test_a_far_row_is_distrusted_and_an_unseen_category_is_read(hospitals, tmp_path):
    _, _, finished = hospitals
    rows = {"age": [55.0, 9000.0], "marker": [1.0, -800.0], "ward": ["east", "moon"]}
    pd.DataFrame(rows).to_csv(tmp_path / "new.csv", index=False)
    predict_stream(Bundle.load(finished.folder), tmp_path / "new.csv", tmp_path / "p.csv")
    out = pd.read_csv(tmp_path / "p.csv")
    assert out["distrust"][1] > 0.95 > out["distrust"][0]


def test_a_missing_column_is_named_and_nothing_is_left_behind(hospitals, tmp_path):
    _, _, finished = hospitals
    pd.DataFrame({"age": [1.0], "ward": ["east"]}).to_csv(tmp_path / "new.csv", index=False)
    with pytest.raises(DataError, match="no column 'marker', and the model reads it"):
        predict_stream(Bundle.load(finished.folder), tmp_path / "new.csv", tmp_path / "p.csv")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new.csv"]


def test_a_bad_cell_far_down_is_named_and_no_partial_file_stays(hospitals, tmp_path):
    frame, _, finished = hospitals
    frame.drop(columns="label").to_csv(tmp_path / "new.csv", index=False)
    with (tmp_path / "new.csv").open("a") as file:
        file.write("p,old,1,east,north\n")
    with pytest.raises(DataError, match=rf"column 'age', row {len(frame)} .*: 'old' is no number"):
        predict_stream(Bundle.load(finished.folder), tmp_path / "new.csv", tmp_path / "p.csv", rows=10)
    assert not (tmp_path / "p.csv").exists()
    assert not (tmp_path / "p.csv.part").exists()
    done = predict_stream(Bundle.load(finished.folder), tmp_path / "new.csv", tmp_path / "p.csv", missing=["old"])
    assert done.rows == len(frame) + 1


def test_the_same_study_does_not_train_its_model_twice(hospitals):
    _, folder, finished = hospitals
    before = (finished.folder / "model" / "tensors.safetensors").stat().st_mtime_ns
    fields = json.loads(json.dumps(finished.summary["spec"]))
    run_study(parse_spec(fields), folder / "run")
    assert (finished.folder / "model" / "tensors.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "study.json").unlink(), "no shipped model"),
        (lambda f: (f / "study.json").write_text("{"), "not JSON"),
        (lambda f: (f / "study.json").write_text('{"format": 99}'), "newer version"),
        (lambda f: (f / "tensors.safetensors").write_bytes(b"x" * 100), "tensors"),
        (lambda f: (f / "trust" / "tensors.safetensors").write_bytes(b""), "tensors"),
    ],
)
def test_a_damaged_model_is_refused(hospitals, tmp_path, change, message):
    import shutil

    _, _, finished = hospitals
    shutil.copytree(finished.folder / "model", tmp_path / "model")
    change(tmp_path / "model")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        Bundle.load(tmp_path / "model")


def test_a_method_from_outside_is_compared_but_not_saved(tmp_path):
    spec = spec_of(tmp_path, [fake("NearestMean", "erm")], executor={"workers": 0})
    finished = run_study(spec, tmp_path / "run", data={"data": make_sites()})
    assert finished.models == {}
    assert "cannot be saved" in finished.summary["settings"][0]["not_shipped"]
    assert "cannot be saved" in finished.report.read_text()


def _ship(data: Environments, folder, where, **reading):
    spec = parse_spec(
        {
            "data": {"path": str(where)} | reading,
            "methods": ["erm"],
            "seeds": 1,
            "steps": 20,
            "executor": {"workers": 0},
        }
    )
    return Bundle.load(run_study(spec, folder, data={"data": data}).folder)


def test_images_stream_from_folders_and_arrays(tmp_path):
    rng = np.random.default_rng(100)
    for e in ("a", "b"):
        for c in ("cat", "dog"):
            (tmp_path / "images" / e / c).mkdir(parents=True)
            for i in range(12):
                pixels = rng.integers(0, 120, (8, 8, 3)).astype(np.uint8) + (120 if c == "dog" else 0)
                Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "images" / e / c / f"{i}.png")
    data = read(tmp_path / "images")
    bundle = _ship(data, tmp_path / "run", tmp_path / "images")
    assert bundle.info.shape == [3, 8, 8]
    predict_stream(bundle, tmp_path / "images", tmp_path / "p.csv", rows=5)
    from_folder = pd.read_csv(tmp_path / "p.csv")
    assert from_folder["file"].is_unique
    assert len(from_folder) == 48
    np.savez(tmp_path / "x.npz", x=data.x)
    np.save(tmp_path / "x.npy", np.moveaxis(data.x, 1, 3))
    for name in ("x.npz", "x.npy"):
        predict_stream(bundle, tmp_path / name, tmp_path / "q.csv", rows=7)
        assert len(pd.read_csv(tmp_path / "q.csv")) == 48
    np.save(tmp_path / "y.npy", np.zeros((3, 9, 9, 3), np.uint8))
    with pytest.raises(DataError, match=r"shape \(9, 9, 3\)"):
        predict_stream(bundle, tmp_path / "y.npy", tmp_path / "q.csv")
    listed = pd.DataFrame({"path": [f"images/{f}" for f in from_folder["file"]]})
    listed.to_csv(tmp_path / "list.csv", index=False)
    predict_stream(bundle, tmp_path / "list.csv", tmp_path / "r.csv", rows=5)
    assert pd.read_csv(tmp_path / "r.csv")["prediction"].tolist() == from_folder["prediction"].tolist()


def test_texts_stream_from_a_table(tmp_path):
    frame = pd.DataFrame(
        {
            "post": ["good fine day", "bad awful day"] * 30,
            "platform": ["one", "one", "two", "two"] * 15,
            "label": ["pos", "neg"] * 30,
        }
    )
    frame.to_csv(tmp_path / "posts.csv", index=False)
    reading = {"label": "label", "environment": "platform", "text": "post"}
    bundle = _ship(read(tmp_path / "posts.csv", **reading), tmp_path / "run", tmp_path / "posts.csv", **reading)
    predict_stream(bundle, tmp_path / "posts.csv", tmp_path / "p.csv", rows=7)
    out = pd.read_csv(tmp_path / "p.csv")
    assert (out["prediction"] == frame["label"]).all()
    frame.to_json(tmp_path / "posts.jsonl", orient="records", lines=True)
    predict_stream(bundle, tmp_path / "posts.jsonl", tmp_path / "q.csv", rows=7)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "q.csv"), out)


@pytest.mark.parametrize("compressed", [False, True])
def test_arrays_in_archives_are_read_as_they_are_and_mapped_where_they_can_be(tmp_path, compressed):
    x = np.random.default_rng(0).normal(size=(50, 3))
    (np.savez_compressed if compressed else np.savez)(tmp_path / "a.npz", other=np.arange(7), x=x)
    found = map_array(tmp_path / "a.npz")
    assert (found == x).all()
    assert isinstance(found, np.memmap) == (not compressed)
    with pytest.raises(DataError, match="no array 'z'; it holds other, x"):
        map_array(tmp_path / "a.npz", "z")


def test_a_wrong_width_is_named(tmp_path):
    bundle = _ship(make_sites(), tmp_path / "run", tmp_path)
    np.save(tmp_path / "x.npy", np.zeros((4, 3)))
    with pytest.raises(DataError, match=r"samples have shape \(3,\), but the model was trained on \(5,\)"):
        predict_stream(bundle, tmp_path / "x.npy", tmp_path / "p.csv")
    with pytest.raises(ValueError, match="must end in"):
        predict_stream(bundle, tmp_path / "x.npy", tmp_path / "p.txt")
