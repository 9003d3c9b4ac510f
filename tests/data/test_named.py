"""Named data sets: files are checked before they are read, and what is read is what the sources say."""

from __future__ import annotations

import gzip
import hashlib
import os
import re

import numpy as np
import pytest

from holdfast.data import DataError, describe_named, is_local, list_named, load_named, named_file, named_options
from holdfast.data.named import NAMED, files
from holdfast.data.named.files import SourceFile
from holdfast.data.named.images import read_idx, resize

EMBEDDED = ["sklearn-digits", "iris", "wine", "breast-cancer", "diabetes"]
# Samples, environments and classes as the sources state them.
STATED = {
    "fashion-mnist": (60_000, 1, 10),
    "mnist": (60_000, 1, 10),
    "usps": (9_298, 2, 10),
    "digits": (10_000 + 9_298, 2, 10),
    "pacs": (9_991, 4, 7),
    "cifar10": (10_000, 1, 10),
    "cifar-n": (10_000, 1, 10),
    "omniglot": (32_460, 50, 1_623),
    "coil20": (1_440, 4, 20),
    "pneumoniamnist": (5_856, 3, 2),
    "extended-yale-b": (2_432 - 18, 5, 38),
    "yale-faces": (164, 11, 15),
    "orl-faces": (400, 1, 40),
    "smiles-lfw": (4_000, 1, 2),
    "hate-speech": (24_783 + 5_163 + 23_416 + 10_703 + 1_528 + 998, 6, 2),
    "adult": (32_561, 5, 2),
    "wine-quality": (6_497, 2, 2),
    "bike-sharing": (17_379, 4, None),
    "communities-crime": (1_994, 46, None),
    "heart-disease": (920, 4, 2),
    "electricity-nsw": (45_312, 5, 2),
    "cell-lines-batches": (2_370, 3, 2),
    "pbmc68k-reduced": (700, 1, 10),
    "kang-pbmc-ifnb": (2_000, 2, 4),
    "sklearn-digits": (1_797, 1, 10),
    "iris": (150, 1, 3),
    "wine": (178, 1, 3),
    "breast-cancer": (569, 1, 2),
    "diabetes": (442, 1, None),
}


def needs(name: str) -> None:
    if not is_local(name):
        pytest.skip(f"the files of {name} are not on this machine: set HOLDFAST_DATA to the folder that holds them")


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """No local folder, an empty cache, and no way out."""
    import pooch

    monkeypatch.delenv("HOLDFAST_DATA", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda _: tmp_path / "cache")
    return tmp_path


@pytest.mark.parametrize("name", list_named())
def test_samples_environments_and_classes_are_those_the_source_states(name):
    needs(name)
    e = load_named(name)
    n, environments, classes = STATED[name]
    assert len(e) == n
    assert len(e.names) == environments
    assert e.task == ("regression" if classes is None else "classification")
    if classes is not None:
        assert len(e.classes) == classes
    assert min(e.counts.values()) > 0
    assert describe_named(name).kind.split()[0] == e.kind


def test_the_table_is_complete():
    assert set(STATED) == set(NAMED)
    for name, s in NAMED.items():
        assert s.name == name
        assert s.title
        assert s.licence
        assert s.citation
        assert s.origin
        assert s.load.__doc__
        assert bool(s.files) == (name not in EMBEDDED)
        for f in s.files:
            assert re.fullmatch("[0-9a-f]{64}", f.sha256)
            assert not f.url or f.url.startswith("http")
            assert not f.url_sha256 or re.fullmatch("[0-9a-f]{64}", f.url_sha256)


def test_embedded_sets_equal_scikit_learns():
    from sklearn import datasets

    e, d = load_named("breast-cancer"), datasets.load_breast_cancer()
    np.testing.assert_array_equal(e.x, d.data)
    assert (e.y == d.target_names[d.target]).all()
    digits = load_named("sklearn-digits")
    np.testing.assert_allclose(digits.x[:, 0] * 16, datasets.load_digits().images)


def test_unknown_names_and_options_are_refused_with_the_closest():
    with pytest.raises(DataError, match="did you mean 'pacs'"):
        load_named("pasc")
    with pytest.raises(DataError, match="no option 'envronment'; did you mean 'environment'"):
        load_named("adult", envronment="sex")
    with pytest.raises(DataError, match="no file 'x'"):
        named_file("adult", "x")
    assert named_options("wine-quality") == {"target": "good"}


def test_a_file_that_cannot_be_had_says_where_it_comes_from_and_what_to_set(empty, monkeypatch):
    with pytest.raises(DataError, match=r"HOLDFAST_DATA is not set.*sketchx\.eecs.*pacs/pacs_32\.npz"):
        load_named("pacs")
    assert not is_local("pacs")
    monkeypatch.setenv("HOLDFAST_DATA", str(empty))
    with pytest.raises(DataError, match="does not hold it"):
        load_named("pacs")
    monkeypatch.setenv("HOLDFAST_DATA", str(empty / "nowhere"))
    with pytest.raises(DataError, match="is no folder"):
        load_named("pacs")


def test_a_wrong_file_is_refused_and_both_checksums_are_named(empty, monkeypatch):
    (empty / "pacs").mkdir()
    (empty / "pacs" / "pacs_32.npz").write_bytes(b"other bytes")
    monkeypatch.setenv("HOLDFAST_DATA", str(empty))
    found, expected = hashlib.sha256(b"other bytes").hexdigest(), NAMED["pacs"].files[0].sha256
    with pytest.raises(DataError, match=f"SHA-256 is {found}, expected {expected}"):
        load_named("pacs")


def made_set(monkeypatch, content: bytes, **source: str) -> None:
    file = SourceFile("part.csv.gz", hashlib.sha256(content).hexdigest(), **source)
    monkeypatch.setitem(NAMED, "made", files.NamedSet("made", "", lambda get: get, "", "", "", files=(file,)))


def test_a_checksum_is_computed_once_for_each_state_of_a_file(empty, monkeypatch):
    content = gzip.compress(b"a,b\n")
    made_set(monkeypatch, content)
    (empty / "made").mkdir()
    path = empty / "made" / "part.csv.gz"
    path.write_bytes(content)
    monkeypatch.setenv("HOLDFAST_DATA", str(empty))
    files.sha256_of.cache_clear()
    for _ in range(3):
        assert named_file("made", "part.csv.gz") == path
    assert files.sha256_of.cache_info().misses == 1
    path.write_bytes(b"changed")
    os.utime(path, ns=(1, 1))
    with pytest.raises(DataError, match="not the expected file"):
        named_file("made", "part.csv.gz")


def test_the_local_folder_is_looked_at_before_the_cache_and_the_address(empty, monkeypatch):
    content = gzip.compress(b"a,b\n")
    made_set(monkeypatch, content, url="http://127.0.0.1:9/part.csv.gz")
    for base in ("local", "cache"):
        (empty / base / "made").mkdir(parents=True)
        (empty / base / "made" / "part.csv.gz").write_bytes(content)
    monkeypatch.setenv("HOLDFAST_DATA", str(empty / "local"))
    assert named_file("made", "part.csv.gz") == empty / "local" / "made" / "part.csv.gz"
    monkeypatch.delenv("HOLDFAST_DATA")
    assert named_file("made", "part.csv.gz") == empty / "cache" / "made" / "part.csv.gz"


@pytest.fixture
def server(tmp_path):
    """A server of files on this machine."""
    import threading
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    root = tmp_path / "served"
    root.mkdir()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root)))
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield root, f"http://127.0.0.1:{httpd.server_port}/"
    httpd.shutdown()


def test_a_download_is_checked_kept_and_not_repeated(empty, monkeypatch, server):
    root, url = server
    content = gzip.compress(b"a,b\n")
    made_set(monkeypatch, content, url=url + "part.csv.gz")
    (root / "part.csv.gz").write_bytes(content)
    path = named_file("made", "part.csv.gz")
    assert path.read_bytes() == content
    (root / "part.csv.gz").unlink()
    assert named_file("made", "part.csv.gz") == path


def test_an_official_file_of_another_packing_is_taken_from_its_archive(empty, monkeypatch, server):
    import zipfile

    root, url = server
    plain = b"a,b\n1,2\n"
    with zipfile.ZipFile(root / "all.zip", "w") as z:
        z.writestr("part.csv", plain)
    made_set(monkeypatch, b"ours", url=url + "all.zip", member="part.csv", url_sha256=hashlib.sha256(plain).hexdigest())
    assert named_file("made", "part.csv.gz").read_bytes() == plain


def test_a_download_of_other_bytes_is_refused(empty, monkeypatch, server):
    root, url = server
    made_set(monkeypatch, b"expected", url=url + "part.csv.gz")
    (root / "part.csv.gz").write_bytes(b"other")
    with pytest.raises(DataError, match=r"could not be fetched.*HOLDFAST_DATA"):
        named_file("made", "part.csv.gz")
    made_set(monkeypatch, b"expected", url=url + "gone.csv.gz")
    with pytest.raises(DataError, match="could not be fetched"):
        named_file("made", "part.csv.gz")


def test_official_and_repacked_files_load_the_same(tmp_path, monkeypatch):
    """Semicolons and quoted names (official) against commas and underscores (repacked)."""
    needs("wine-quality")
    ours = load_named("wine-quality")
    source = named_file("wine-quality", "winequality-red.csv.gz").parent
    if not (source / "winequality-white.csv.gz").is_file():
        pytest.skip("the repacked files of wine-quality are not on this machine")
    (tmp_path / "official" / "wine-quality").mkdir(parents=True)
    for colour in ("red", "white"):
        header, rows = gzip.decompress((source / f"winequality-{colour}.csv.gz").read_bytes()).split(b"\n", 1)
        names = b";".join(b'"' + n.replace(b"_", b" ") + b'"' for n in header.split(b","))
        official = names + b"\n" + rows.replace(b",", b";")
        (tmp_path / "official" / "wine-quality" / f"winequality-{colour}.csv").write_bytes(official)
    monkeypatch.setenv("HOLDFAST_DATA", str(tmp_path / "official"))
    theirs = load_named("wine-quality")
    assert ours.x.equals(theirs.x)
    assert (ours.y == theirs.y).all()


def test_idx_files_are_read_packed_or_not(tmp_path):
    x = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    raw = bytes([0, 0, 8, 3]) + np.array(x.shape, ">u4").tobytes() + x.tobytes()
    for name, content in (("a", raw), ("b", gzip.compress(raw))):
        (tmp_path / name).write_bytes(content)
        np.testing.assert_array_equal(read_idx(tmp_path / name), x)


def test_resizing_keeps_constants_and_the_mean():
    constant = np.full((3, 1, 28, 28), 77, np.uint8)
    assert (resize(constant, 16) == 77).all()
    x = np.random.default_rng(100).integers(0, 256, (2, 1, 32, 32), dtype=np.uint8)
    # Halving with a triangle filter averages: the mean moves by rounding and the border alone.
    assert abs(resize(x, 16).mean() - x.mean()) < 2


def test_options_choose_environments_and_targets():
    needs("adult")
    for environment, count in {"sex": 2, "race": 5, "country": 42, "age": 7, "part": 2}.items():
        e = load_named("adult", environment=environment)
        assert len(e.names) == count
        column = {"country": "native_country"}.get(environment, environment)
        assert column not in e.x.columns
    assert len(load_named("adult", part="all")) == 48_842
    rate = (load_named("adult").only("Black").y == ">50K").mean()
    assert abs(rate - 387 / 3124) < 1e-12


def test_noise_rates_of_human_labels_are_those_published():
    needs("cifar-n")
    for noise, rate in {"aggre": 0.0901, "random1": 0.1723, "worse": 0.4021, "clean": 0.0}.items():
        e = load_named("cifar-n", noise=noise)
        # A fifth of the images: five standard deviations of a share of 10,000 draws.
        assert abs((e.y != e.attributes["clean"]).mean() - rate) <= 5 * np.sqrt(rate * (1 - rate) / 10_000) + 1e-12


def test_base_rates_of_hospitals_and_platforms_are_those_stated():
    needs("heart-disease")
    rates = {n: load_named("heart-disease").only(n).y.mean() for n in ("cleveland", "switzerland")}
    assert round(rates["cleveland"], 3) == 0.459
    assert round(rates["switzerland"], 3) == 0.935
    assert load_named("heart-disease").only("switzerland").x["chol"].isna().all()
    needs("hate-speech")
    e = load_named("hate-speech", limit=400, hatexplain=True, hatecheck=True)
    assert len(e.names) == 9
    assert max(e.counts.values()) == 400
    assert all(isinstance(t, str) and t for t in e.x)


def test_options_out_of_range_are_refused():
    needs("coil20")
    with pytest.raises(ValueError, match="ranges"):
        load_named("coil20", ranges=5)
    needs("pacs")
    with pytest.raises(ValueError, match="size"):
        load_named("pacs", size=16)
