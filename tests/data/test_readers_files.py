"""Images, manifests, texts, archives and graphs: what is read is what was written; refusals name the file."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from PIL import Image

from holdfast.data import (
    DataError,
    iter_images,
    load_images,
    read,
    read_graphs,
    read_images,
    read_manifest,
    read_npz,
    read_text,
)


@pytest.fixture
def folder(tmp_path):
    """Two environments, two classes, three 6x4 images each; every pixel tells its image."""
    root, value = tmp_path / "photos", 0
    for place in ("day", "night"):
        for kind in ("cat", "dog"):
            (root / place / kind).mkdir(parents=True)
            for i in range(3):
                Image.fromarray(np.full((6, 4, 3), value, np.uint8)).save(root / place / kind / f"{i}.png")
                value += 10
    return root


def test_an_image_folder_keeps_pixels_classes_and_places_together(folder):
    e = read_images(folder)
    assert e.x.shape == (12, 3, 6, 4)
    assert e.x.dtype == np.uint8
    assert e.x[:, 0, 0, 0].tolist() == list(range(0, 120, 10))
    assert e.environment_names.tolist() == ["day"] * 6 + ["night"] * 6
    assert e.y.tolist() == (["cat"] * 3 + ["dog"] * 3) * 2
    assert e.attributes["file"][0] == "day/cat/0.png"


def test_layouts_say_what_the_folders_mean(folder):
    swapped = read_images(folder, layout="class/environment")
    assert swapped.y.tolist() == read_images(folder).environment_names.tolist()
    one = read_images(folder, layout="class")
    assert one.names == ("all",)
    assert one.classes.tolist() == ["day", "night"]


def test_threads_do_not_change_the_order(folder):
    assert (read_images(folder, workers=1).x == read_images(folder, workers=8).x).all()


def test_grey_images_have_one_channel_and_sixteen_bits_become_eight(tmp_path):
    Image.fromarray(np.full((3, 3), 7, np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.full((3, 3), 7 * 256 + 200, np.uint16)).save(tmp_path / "b.png")
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    assert (load_images(files) == 7).all()
    assert load_images(files).shape == (2, 1, 3, 3)
    assert load_images(files, mode="RGB").shape == (2, 3, 3, 3)


def test_images_stand_upright_by_their_exif(tmp_path):
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    assert load_images([tmp_path / "a.png"]).shape == (1, 1, 6, 4)
    np.testing.assert_array_equal(load_images([tmp_path / "a.png"])[0, 0], np.rot90(pixels, -1))


def test_resizing_a_constant_image_keeps_it_and_gives_the_asked_size(folder):
    e = read_images(folder, size=(3, 8))
    assert e.x.shape == (12, 3, 3, 8)
    assert e.x[:, 0, 0, 0].tolist() == list(range(0, 120, 10))


def test_images_in_chunks_are_the_whole(folder):
    parts = list(iter_images(folder, size=None, mode="RGB", chunk=5))
    assert [len(f) for f, _ in parts] == [5, 5, 2]
    np.testing.assert_array_equal(np.concatenate([x for _, x in parts]), read_images(folder).x)


def test_bad_image_folders_are_refused_with_the_file_and_the_fix(folder, tmp_path):
    odd = folder / "night" / "dog" / "9.png"
    Image.new("RGB", (5, 5)).save(odd)
    with pytest.raises(DataError, match=r"9\.png is 5x5 .* but .*0\.png is 6x4; pass size=\(5, 4\)"):
        read_images(folder)
    assert read_images(folder, size=(5, 4)).x.shape == (13, 3, 5, 4)
    odd.write_bytes(b"no image")
    for size in (None, 4):
        with pytest.raises(DataError, match=r"9\.png is no readable image"):
            read_images(folder, size=size)
    whole = (folder / "day" / "cat" / "0.png").read_bytes()
    odd.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"9\.png is no readable image"):
        read_images(folder)
    odd.unlink()
    with pytest.raises(DataError, match=r"lies too high.*layout='class'"):
        read_images(folder / "day")
    with pytest.raises(DataError, match="one environment only, 'photos'"):
        read_images(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        read_images(tmp_path / "empty")
    with pytest.raises(DataError, match="there is no file"):
        read_images(tmp_path / "nowhere")
    with pytest.raises(DataError, match="is a file"):
        read_images(folder / "day" / "cat" / "0.png")


def manifest(root, rows, name="list.csv"):
    if name.endswith(".csv"):
        (root / name).write_text("\n".join(["path,label,environment", *(",".join(r) for r in rows)]))
    else:
        records = [dict(zip(("path", "label", "environment"), r)) for r in rows]
        joined = "\n".join(map(json.dumps, records)) if name.endswith(".jsonl") else json.dumps(records)
        (root / name).write_text(joined)
    return root / name


@pytest.mark.parametrize("name", ["list.csv", "list.json", "list.jsonl"])
def test_a_manifest_of_images_equals_the_folder(folder, name):
    by_folder = read_images(folder)
    rows = list(zip(by_folder.attributes["file"], by_folder.y, by_folder.environment_names))
    by_list = read_manifest(manifest(folder, rows, name))
    np.testing.assert_array_equal(by_list.x, by_folder.x)
    assert (by_list.y == by_folder.y).all()
    assert (by_list.environment == by_folder.environment).all()
    assert read(folder / name).kind == "image"


def test_a_manifest_lists_texts_and_arrays_too(tmp_path):
    for i in range(4):
        (tmp_path / f"{i}.txt").write_text(f"text {i}")
        np.save(tmp_path / f"{i}.npy", np.full((i + 1, 2), i))
    places = [("no", "N"), ("yes", "N"), ("no", "S"), ("yes", "S")]
    texts = read_manifest(manifest(tmp_path, [(f"{i}.txt", *p) for i, p in enumerate(places)]))
    assert texts.x == [f"text {i}" for i in range(4)]
    sets = read_manifest(manifest(tmp_path, [(f"{i}.npy", *p) for i, p in enumerate(places)]))
    assert sets.kind == "sets"
    assert [len(s) for s in sets.x] == [1, 2, 3, 4]


def test_bad_manifests_are_refused_with_the_row(folder):
    good = ("day/cat/0.png", "cat", "day")
    with pytest.raises(DataError, match=r"row 1 \(line 3\): there is no file .*gone\.png"):
        read_manifest(manifest(folder, [good, ("gone.png", "dog", "night")]))
    (folder / "a.txt").write_text("x")
    with pytest.raises(DataError, match=r"row 1: a\.txt is of another kind"):
        read_manifest(manifest(folder, [good, ("a.txt", "dog", "night")]))
    (folder / "a.bin").write_text("x")
    with pytest.raises(DataError, match=r"row 1: a\.bin is no image, \.txt or \.npy"):
        read_manifest(manifest(folder, [good, ("a.bin", "dog", "night")]))
    np.save(folder / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="without Python objects"):
        read_manifest(manifest(folder, [("o.npy", "cat", "day"), ("o.npy", "dog", "night")]))


def test_texts_keep_line_breaks_and_quotes(tmp_path):
    p = tmp_path / "posts.csv"
    p.write_text('text,site,y\n"one,\ntwo",A,0\n"say ""hi""",A,1\nthree,B,0\n1234,B,1\n')
    e = read_text(p, label="y", environment="site")
    assert e.x == ["one,\ntwo", 'say "hi"', "three", "1234"]
    assert e.kind == "text"
    assert read(p, text="text", label="y", environment="site").x == e.x


def test_a_missing_text_or_one_text_only_is_refused(tmp_path):
    p = tmp_path / "posts.csv"
    p.write_text("text,site,y\nhello,A,0\n,B,1\n")
    with pytest.raises(DataError, match=r"column 'text', row 1 \(line 3\): the text is missing"):
        read_text(p, label="y", environment="site")
    p.write_text("text,site,y\nhello,A,0\nhello,B,1\n")
    with pytest.raises(DataError, match="every row holds the same text"):
        read_text(p, label="y", environment="site")
    with pytest.raises(DataError, match="did you mean 'text'"):
        read_text(p, text="Text", label="y")


@pytest.mark.parametrize(
    ("x", "kind"),
    [
        (np.zeros((4, 3)), "vector"),
        (np.zeros((4, 5, 5), np.uint8), "image"),
        (np.zeros((4, 5, 5, 3)), "image"),
        (np.zeros((4, 7, 2)), "trajectories"),
        (np.array(["a", "b", "c", "d"]), "text"),
    ],
)
def test_archives_hold_any_kind_of_array(tmp_path, x, kind):
    np.savez(
        tmp_path / "a.npz", x=x, y=[0, 1, 0, 1], environment=[0, 0, 1, 1], environment_names=["N", "S"], age=range(4)
    )
    e = read_npz(tmp_path / "a.npz")
    assert e.kind == kind
    assert e.names == ("N", "S")
    assert e.attributes["age"].tolist() == [0, 1, 2, 3]
    assert read(tmp_path / "a.npz").kind == kind


def test_ragged_sets_are_cut_at_their_offsets(tmp_path):
    x = np.arange(12.0).reshape(6, 2)
    np.savez(tmp_path / "a.npz", x=x, offsets=[0, 1, 3, 6], y=["a", "b", "a"], where=["N", "S", "S"])
    e = read_npz(tmp_path / "a.npz", environment=None)
    assert [len(s) for s in e.x] == [1, 2, 3]
    np.testing.assert_array_equal(np.concatenate(e.x), x)


def test_bad_archives_are_refused(tmp_path):
    p = tmp_path / "a.npz"
    cases = [
        ({"x": np.zeros((2, 1)), "label": [0, 1]}, "no array 'y'.*given as label"),
        ({"x": np.zeros((2, 1)), "y": [0, 1]}, "no array 'environment'.*environment=None"),
        ({"x": np.zeros((2, 1)), "y": [0, 1, 1], "environment": [0, 1]}, r"'y' must have shape \(2,\)"),
        ({"x": np.zeros((2, 1)), "y": [0.5, np.nan], "environment": [0, 1]}, "row 1: the label is missing"),
        ({"x": np.zeros((2, 1)), "y": [0, 1], "environment": [1, 1]}, "one environment only"),
        ({"x": np.zeros((2, 1)), "y": [0, 1], "environment": [0, 2], "environment_names": ["N"]}, "must index"),
        ({"x": np.zeros((2, 1)), "y": [0, 1], "environment": [0, 1], "offsets": [0, 3, 2]}, "must increase"),
    ]
    for arrays, message in cases:
        np.savez(p, **arrays)
        with pytest.raises(DataError, match=message):
            read_npz(p)
    np.savez(p, x=np.array([{}, {}], dtype=object), y=[0, 1])
    with pytest.raises(DataError, match="Python objects"):
        read_npz(p)
    p.write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"no readable \.npz|Python objects"):
        read_npz(p)


def test_read_picks_the_reader_and_refuses_what_it_does_not_take(tmp_path, folder):
    p = tmp_path / "a.csv"
    p.write_text("age,domain,target\n1,N,a\n2,N,b\n3,S,a\n4,S,b\n")
    assert read(p).names == ("N", "S")
    assert read(folder).kind == "image"
    with pytest.raises(DataError, match="read as images, which takes no label"):
        read(folder, label="y")
    (tmp_path / "b.csv").write_text("age,where\n1,N\n2,S\n")
    with pytest.raises(DataError, match=r"which column is the label\? .*'age', 'where'"):
        read(tmp_path / "b.csv")
    (tmp_path / "a.xyz").write_text("?")
    with pytest.raises(DataError, match="no known type"):
        read(tmp_path / "a.xyz")


def test_without_torch_geometric_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_geometric.data", None)
    with pytest.raises(ImportError, match=r"holdfast\[graph\]"):
        read_graphs([{"edge_index": [[0], [1]]}])


def ring(n: int) -> dict:
    return {"edge_index": [list(range(n)), [(i + 1) % n for i in range(n)]], "x": [[float(i)] for i in range(n)]}


class TestGraphs:
    @pytest.fixture(autouse=True)
    def _needs_pyg(self):
        pytest.importorskip("torch_geometric", reason="needs torch_geometric (extra holdfast[graph])")

    @pytest.fixture
    def records(self):
        places = [("N", 0), ("N", 1), ("S", 0), ("S", 1)]
        return [{**ring(3 + i), "y": y, "environment": e} for i, (e, y) in enumerate(places)]

    def test_every_form_gives_the_same_graphs(self, tmp_path, records):
        import torch
        from torch_geometric.data import Data

        (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
        sizes = [len(r["x"]) for r in records]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        np.savez(
            tmp_path / "a.npz",
            x=np.concatenate([r["x"] for r in records]),
            edge_index=np.concatenate([r["edge_index"] for r in records], axis=1),
            node_offsets=offsets,
            edge_offsets=offsets,
            y=[r["y"] for r in records],
            environment=[r["environment"] for r in records],
        )
        data = [
            Data(
                x=torch.tensor(r["x"]),
                edge_index=torch.tensor(r["edge_index"]),
                y=torch.tensor([r["y"]]),
                environment=r["environment"],
            )
            for r in records
        ]
        torch.save(data, tmp_path / "a.pt")
        read_all = [read_graphs(data), *(read(tmp_path / n) for n in ("a.jsonl", "a.npz", "a.pt"))]
        for e in read_all:
            assert e.kind == "graphs"
            assert e.counts == {"N": 2, "S": 2}
            assert e.y.tolist() == [0, 1, 0, 1]
            for g, r in zip(e.x, records):
                assert g.x.tolist() == r["x"]
                assert g.edge_index.tolist() == r["edge_index"]

    def test_without_node_features_degrees_are_used(self, records):
        for r in records:
            del r["x"]
        assert read_graphs(records).x[0].x.tolist() == [[1.0], [1.0], [1.0]]

    def test_bad_graphs_are_refused_with_the_row(self, records):
        broken = [dict(r) for r in records]
        broken[1]["edge_index"] = [[0], [9]]
        with pytest.raises(DataError, match="row 1: an edge names node 9, but the graph has 4 nodes"):
            read_graphs(broken)
        broken[1] = {k: v for k, v in records[1].items() if k != "y"}
        with pytest.raises(DataError, match="row 1: the graph has no 'y'"):
            read_graphs(broken)
        with pytest.raises(DataError, match="row 0: the graph has no edge_index"):
            read_graphs([{"x": [[1.0]], "y": 0, "environment": "N"}])

    def test_a_pickle_that_runs_code_is_refused(self, tmp_path):
        import pickle

        class Evil:
            def __reduce__(self):
                return print, ("run",)

        import torch

        torch.save([Evil()], tmp_path / "a.pt", pickle_module=pickle)
        with pytest.raises(DataError, match="read safely"):
            read_graphs(tmp_path / "a.pt")
