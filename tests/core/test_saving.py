"""Laws of model files."""

from __future__ import annotations

import hashlib
import json
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from holdfast.core import saving
from holdfast.core.estimator import Estimator
from holdfast.core.saving import ModelFileError, load, save


class Toy(Estimator):
    """An estimator with a little of everything a state can hold."""

    def __init__(self, alpha: float = 1.0, names: tuple[str, ...] = ()) -> None:
        self.alpha, self.names = alpha, names

    def _get_state(self):
        state = {"params": {"alpha": self.alpha, "names": list(self.names)}, "seen": self.seen_}
        return state, {"weight": self.weight_, "tied": self.weight_, "turned": self.weight_.T, "ids": self.ids_}

    def _set_state(self, state, tensors, **objects):
        self.set_params(alpha=state["params"]["alpha"], names=tuple(state["params"]["names"]))
        self.seen_, self.weight_, self.turned_ = state["seen"], tensors["weight"], tensors["turned"]
        self.ids_, self.objects_ = tensors["ids"], objects


Toy.__module__ = "holdfast.toy_of_the_tests"


@pytest.fixture(autouse=True)
def _toy_lives_in_the_library(monkeypatch):
    module = types.ModuleType("holdfast.toy_of_the_tests")
    module.Toy, module.Path, module.save = Toy, Path, save
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.fixture(params=["model", "model.holdfast"])
def path(request, tmp_path):
    return tmp_path / "deep" / request.param


def toy() -> Toy:
    made = Toy(alpha=0.1 + 0.2, names=("Zürich", "東京", '"\n'))
    made.seen_ = {"nothing": None, "tiny": 5e-324, "inf": float("inf"), "big": 2**70, "list": [1, [True, "x"]]}
    made.weight_ = torch.randn(3, 4, generator=torch.Generator().manual_seed(100))
    made.ids_ = torch.tensor([2**62, -1])
    return made


def change(path: Path, edit, *, sign: bool = False) -> None:
    """Edit the document of a model; ``sign`` renews its hash, as somebody who knows the format could."""
    if path.is_dir():
        document = json.loads((path / "model.json").read_text())
    else:
        with zipfile.ZipFile(path) as z:
            document, blob = json.loads(z.read("model.json")), z.read("tensors.safetensors")
    edit(document)
    if sign:
        document["sha256"] = saving._digest(document)
    if path.is_dir():
        (path / "model.json").write_text(json.dumps(document))
    else:
        with zipfile.ZipFile(path, "w") as z:
            z.writestr("model.json", json.dumps(document))
            z.writestr("tensors.safetensors", blob)


def test_loading_gives_back_every_bit(path):
    before = toy()
    assert save(before, path) == path
    after = load(path)
    assert type(after) is Toy
    assert (after.alpha, after.names, after.seen_) == (before.alpha, before.names, before.seen_)
    assert torch.equal(after.weight_, before.weight_)
    assert torch.equal(after.turned_, before.weight_.T)
    assert torch.equal(after.ids_, before.ids_)
    assert after.objects_ == {}
    assert load(path, backbone="mine").objects_ == {"backbone": "mine"}


def test_keys_that_are_numbers_survive_as_strings(path):
    made = toy()
    made.seen_ = {1: "a", 10: "b", 2: ("c",)}
    save(made, path)
    assert load(path).seen_ == {"1": "a", "10": "b", "2": ["c"]}


def test_file_says_what_made_it(path):
    save(toy(), path)
    found = {}
    change(path, found.update)
    assert found["libraries"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["libraries"]["numpy"] == np.__version__
    assert found["class"] == "holdfast.toy_of_the_tests.Toy"


def test_nothing_but_the_model_is_left_beside_it(path):
    save(toy(), path)
    save(toy(), path)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    if path.is_dir():
        assert sorted(p.name for p in path.iterdir()) == ["model.json", "tensors.safetensors"]


def test_saving_again_replaces_the_model(path):
    first, second = toy(), toy()
    second.weight_ = second.weight_ + 1
    save(first, path)
    save(second, path)
    assert torch.equal(load(path).weight_, second.weight_)


def test_failed_save_keeps_the_model_that_was_there(path, monkeypatch):
    before = toy()
    save(before, path)

    def fails(*_):
        raise OSError("disk full")

    monkeypatch.setattr("holdfast.core.checkpoint.os.fsync", fails)
    changed = toy()
    changed.weight_ = changed.weight_ + 1
    with pytest.raises(OSError, match="disk full"):
        save(changed, path)
    assert torch.equal(load(path).weight_, before.weight_)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("content", ["notes.txt", "model.json", "extra"])
def test_folder_that_is_not_a_model_is_never_overwritten(tmp_path, content):
    folder = tmp_path / "mine"
    folder.mkdir()
    if content == "extra":
        save(toy(), folder)
        (folder / "thesis.txt").write_text("years of work")
    else:
        (folder / content).write_text("years of work")
        if content == "model.json":
            (folder / "tensors.safetensors").write_text("")
    names = sorted(p.name for p in folder.iterdir())
    with pytest.raises(FileExistsError, match="left as it is"):
        save(toy(), folder)
    assert sorted(p.name for p in folder.iterdir()) == names


def test_file_that_is_not_a_model_is_never_overwritten(tmp_path):
    for name in ("plain", "named.holdfast"):
        (tmp_path / name).write_text("years of work")
        with pytest.raises(FileExistsError):
            save(toy(), tmp_path / name)
        assert (tmp_path / name).read_text() == "years of work"


def test_empty_folder_is_filled(tmp_path):
    assert load(save(toy(), tmp_path)).alpha == toy().alpha


def test_missing_model_is_named(tmp_path):
    with pytest.raises(ModelFileError, match="there is no model at"):
        load(tmp_path / "nowhere")
    with pytest.raises(ModelFileError, match=r"model\.json is missing"):
        load(tmp_path)


@pytest.mark.parametrize("keep", [0, 10, 0.5, -1])
@pytest.mark.parametrize("name", ["model.json", "tensors.safetensors"])
def test_truncated_folder_is_refused(tmp_path, name, keep):
    save(toy(), tmp_path / "m")
    file = tmp_path / "m" / name
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(ModelFileError):
        load(tmp_path / "m")


@pytest.mark.parametrize("keep", [0, 10, 500, -1])
def test_truncated_file_is_refused(tmp_path, keep):
    file = save(toy(), tmp_path / "m.holdfast")
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ModelFileError):
        load(file)


def test_any_flipped_byte_is_refused_or_harmless(tmp_path):
    """Whatever byte of a one-file model changes, loading fails cleanly or gives the same model."""
    before = toy()
    file = save(before, tmp_path / "m.holdfast")
    data = file.read_bytes()
    refused = 0
    for position in range(0, len(data), 7):
        changed = bytearray(data)
        changed[position] ^= 0x55
        file.write_bytes(changed)
        try:
            after = load(file)
        except ModelFileError:
            refused += 1
        else:
            assert torch.equal(after.weight_, before.weight_)
            assert after.seen_ == before.seen_
    assert refused > 0.5 * len(range(0, len(data), 7))


def test_changed_tensors_are_refused(tmp_path):
    save(toy(), tmp_path / "m")
    file = tmp_path / "m" / "tensors.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ModelFileError, match="not those that were saved: damaged or changed"):
        load(tmp_path / "m")


def test_changed_hyper_parameter_is_refused(path):
    save(toy(), path)
    change(path, lambda d: d["state"]["params"].update(alpha=9.0))
    with pytest.raises(ModelFileError, match="not what was saved"):
        load(path)


def test_newer_format_asks_for_an_upgrade(path):
    save(toy(), path)
    change(path, lambda d: d.update(version=2))
    with pytest.raises(ModelFileError, match="format version 2, this version reads up to 1: upgrade"):
        load(path)


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "subprocess.Popen",
        "holdfast_evil.Model",
        "holdfast.toy_of_the_tests.Missing",
        "holdfast.toy_of_the_tests.Path",
        "holdfast.toy_of_the_tests.save",
        "holdfast.not_there.Model",
        "holdfast..core.Estimator",
        "holdfast.core.saving.Estimator",
        "builtins.eval",
        "",
        "holdfast.toy_of_the_tests.Toy.__init__",
    ],
)
def test_class_outside_the_library_or_not_an_estimator_is_refused(path, name):
    save(toy(), path)
    change(path, lambda d: d.update({"class": name}), sign=True)
    with pytest.raises(ModelFileError, match="names the class"):
        load(path)


class Own(Toy):
    """An estimator defined by a user."""


def test_class_of_ones_own_loads_only_when_given(path):
    made = Own()
    made.__dict__.update(toy().__dict__)
    save(made, path)
    with pytest.raises(ModelFileError, match="if it is yours"):
        load(path)
    assert type(load(path, classes=[Own])) is Own


@pytest.mark.parametrize("key", ["class", "state", "tensors", "libraries", "sha256"])
def test_document_without_a_part_is_refused(path, key):
    save(toy(), path)
    change(path, lambda d: d.pop(key))
    with pytest.raises(ModelFileError, match="incomplete"):
        load(path)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"format": "other"}', "[" * 100_000, "\x00"])
def test_what_is_not_a_document_is_refused(tmp_path, text):
    save(toy(), tmp_path / "m")
    (tmp_path / "m" / "model.json").write_text(text)
    with pytest.raises(ModelFileError):
        load(tmp_path / "m")


def test_tensors_with_a_valid_hash_that_are_not_safetensors_are_refused(tmp_path):
    save(toy(), tmp_path / "m")
    blob = b"\x80\x04cos\nsystem\n."
    (tmp_path / "m" / "tensors.safetensors").write_bytes(blob)
    about = {"file": "tensors.safetensors", "bytes": len(blob), "sha256": hashlib.sha256(blob).hexdigest()}
    change(tmp_path / "m", lambda d: d.update(tensors=about), sign=True)
    with pytest.raises(ModelFileError, match="cannot be read"):
        load(tmp_path / "m")


def test_state_that_does_not_fit_the_class_is_refused_with_the_versions(path):
    save(toy(), path)
    change(path, lambda d: d["state"].pop("seen"), sign=True)
    with pytest.raises(ModelFileError, match=r"does not fit.*torch"):
        load(path)


def test_zip_with_other_members_or_compression_is_refused(tmp_path):
    file = save(toy(), tmp_path / "m.holdfast")
    with zipfile.ZipFile(file) as z:
        parts = {name: z.read(name) for name in z.namelist()}
    with zipfile.ZipFile(file, "a") as z:
        z.writestr("../../escaped.txt", "x")
    with pytest.raises(ModelFileError, match="it holds"):
        load(file)
    assert not (tmp_path.parent.parent / "escaped.txt").exists()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as z:
        for name, data in parts.items():
            z.writestr(name, data)
    with pytest.raises(ModelFileError, match="uncompressed"):
        load(file)


def test_state_that_json_cannot_hold_is_refused_before_anything_is_written(tmp_path):
    made = toy()
    made.seen_ = {"array": np.zeros(2)}
    with pytest.raises(TypeError, match="cannot be written as JSON"):
        save(made, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_estimator_methods_save_and_load(path):
    toy().save(path)
    assert Toy.load(path).names == toy().names
