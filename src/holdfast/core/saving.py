"""Model files: JSON and safetensors, checked by hash, and nothing in them that could run."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from holdfast.core.checkpoint import atomic_write
from holdfast.core.estimator import Estimator

__all__ = ["ModelFileError", "load", "save"]

FORMAT = "holdfast-model"
VERSION = 1

_JSON = "model.json"
_TENSORS = "tensors.safetensors"
_SUFFIX = ".holdfast"
_CLASS = re.compile(r"(holdfast(?:\.[a-z_][a-z0-9_]*)+)\.([A-Za-z_][A-Za-z0-9_]*)")
_LIBRARIES = ("holdfast", "torch", "numpy", "scikit-learn", "safetensors")


class ModelFileError(ValueError):
    """A model file that is missing, damaged, changed, too new, or not a model file."""


def save(obj: Estimator, path: str | os.PathLike[str]) -> Path:
    """Write a fitted estimator to ``path`` and return the path.

    A path that ends in ``.holdfast`` becomes one file (an uncompressed zip), any other a folder; inside are
    ``model.json`` (class, versions, hyper-parameters, fitted state, hashes) and ``tensors.safetensors``. The model
    is written beside and renamed into place. A model that is there is replaced; anything else is left alone.

    Raises:
        TypeError: if ``obj`` is not an estimator, or its state holds what JSON cannot.
        FileExistsError: if something is at ``path`` that is not a model.

    Examples:
        >>> save("a model", "a/path")
        Traceback (most recent call last):
        ...
        TypeError: save needs a holdfast estimator, got str
    """
    if not isinstance(obj, Estimator):
        raise TypeError(f"save needs a holdfast estimator, got {type(obj).__name__}")
    path = Path(path)
    one_file = path.suffix == _SUFFIX
    if path.exists() and not _replaceable(path, one_file):
        raise FileExistsError(f"{path} exists and is not a holdfast model; it is left as it is")
    state, tensors = obj._get_state()
    # safetensors wants each tensor whole and alone in its memory.
    blob = safetensors.torch.save({k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()})
    text = _document(type(obj), state, blob)
    path.parent.mkdir(parents=True, exist_ok=True)
    if one_file:

        def write(f: Any) -> None:
            with zipfile.ZipFile(f, "w", zipfile.ZIP_STORED) as z:
                z.writestr(_JSON, text)
                z.writestr(_TENSORS, blob)

        return atomic_write(path, write)
    fresh = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        os.chmod(fresh, 0o777 & ~_umask())
        atomic_write(fresh / _TENSORS, lambda f: f.write(blob))
        atomic_write(fresh / _JSON, lambda f: f.write(text))
        if path.exists():
            old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old."))
            os.rename(path, old / "model")
            os.rename(fresh, path)
            shutil.rmtree(old)
        else:
            os.rename(fresh, path)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    return path


def load(
    path: str | os.PathLike[str],
    *,
    backbone: Any = None,
    problem: Any = None,
    classes: Sequence[type[Estimator]] = (),
) -> Estimator:
    """Read an estimator that :func:`save` wrote. Nothing in the file is run.

    Args:
        path: folder or ``.holdfast`` file.
        backbone: the module the estimator was fitted with, where it was your own.
        problem: the inference problem the estimator was fitted to, where it has one.
        classes: estimator classes of your own that the file may name; those of this library need no mention.

    Raises:
        ModelFileError: if there is no model, or it is truncated, changed, of a newer format, or of unknown class.

    Examples:
        >>> load("not/there")
        Traceback (most recent call last):
        ...
        holdfast.core.saving.ModelFileError: there is no model at not/there
    """
    path = Path(path)
    text, blob = _read(path)
    document = _parse(text, path)
    about = document["tensors"]
    if hashlib.sha256(blob).hexdigest() != about["sha256"]:
        short = f" ({len(blob)} bytes, {about['bytes']} expected)" if len(blob) != about["bytes"] else ""
        raise ModelFileError(f"the tensors in {path} are not those that were saved{short}: damaged or changed")
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(blob)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ModelFileError(f"the tensors in {path} cannot be read: {error}") from error
    estimator = _resolve(document["class"], classes, path)()
    objects = {k: v for k, v in (("backbone", backbone), ("problem", problem)) if v is not None}
    try:
        estimator._set_state(document["state"], tensors, **objects)
    except (KeyError, RuntimeError) as error:
        with_ = ", ".join(f"{k} {v}" for k, v in document["libraries"].items())
        raise ModelFileError(
            f"{path} does not fit {document['class']} of this version ({error}); it was saved with {with_}"
        ) from error
    return estimator


def _document(cls: type, state: dict[str, Any], blob: bytes) -> bytes:
    document = {
        "format": FORMAT,
        "version": VERSION,
        "class": f"{cls.__module__}.{cls.__qualname__}",
        "libraries": {"python": ".".join(map(str, sys.version_info[:3])), **_versions()},
        "state": state,
        "tensors": {"file": _TENSORS, "bytes": len(blob), "sha256": hashlib.sha256(blob).hexdigest()},
    }
    try:
        # What is hashed is what will be read: JSON turns tuples into lists and keys into strings.
        document = json.loads(json.dumps(document))
        document["sha256"] = _digest(document)
        return json.dumps(document, indent=1, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise TypeError(f"the state of {cls.__name__} cannot be written as JSON: {error}") from error


def _digest(document: dict[str, Any]) -> str:
    """Hash everything but the hash itself, in a form that does not depend on layout or key order."""
    rest = {k: v for k, v in document.items() if k != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _replaceable(path: Path, one_file: bool) -> bool:
    """Whether what is at ``path`` is an empty folder or a model of ours in the same form."""
    if one_file != path.is_file():
        return False
    if path.is_dir() and not any(path.iterdir()):
        return True
    try:
        text, _ = _read(path, tensors=False)
        document = json.loads(text)
    except (ModelFileError, ValueError):
        return False
    alone = one_file or {p.name for p in path.iterdir()} <= {_JSON, _TENSORS}
    return alone and isinstance(document, dict) and document.get("format") == FORMAT


def _read(path: Path, *, tensors: bool = True) -> tuple[bytes, bytes]:
    if not path.exists():
        raise ModelFileError(f"there is no model at {path}")
    if path.is_dir():
        for name in (_JSON, _TENSORS):
            if not (path / name).is_file():
                raise ModelFileError(f"{path} is not a whole model folder: {name} is missing")
        return (path / _JSON).read_bytes(), (path / _TENSORS).read_bytes() if tensors else b""
    try:
        with zipfile.ZipFile(path) as z:
            # Members are read by their two known names into memory; nothing is unpacked to the disk, and stored
            # members cannot be larger than the file.
            members = {i.filename: i for i in z.infolist()}
            if sorted(i.filename for i in z.infolist()) != [_JSON, _TENSORS]:
                raise ModelFileError(f"{path} is not a model file: it holds {sorted(members)}, not {[_JSON, _TENSORS]}")
            if any(i.compress_type != zipfile.ZIP_STORED for i in members.values()):
                raise ModelFileError(f"{path} is not a model file: its members must be stored uncompressed")
            return z.read(_JSON), z.read(_TENSORS) if tensors else b""
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, NotImplementedError) as error:
        raise ModelFileError(f"{path} is not a model file, or is truncated: {error}") from error


def _parse(text: bytes, path: Path) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{_JSON} in {path} is not JSON, or is truncated: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ModelFileError(f"{path} is not a holdfast model: {_JSON} does not say format {FORMAT!r}")
    version = document.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ModelFileError(f"{path} has no valid format version, got {version!r}")
    if version > VERSION:
        saved = document.get("libraries")
        by = f" by holdfast {saved.get('holdfast', 'unknown')}" if isinstance(saved, dict) else ""
        raise ModelFileError(
            f"{path} was written{by} in format version {version}, this version reads up to {VERSION}: upgrade holdfast"
        )
    kinds = {"class": str, "state": dict, "tensors": dict, "libraries": dict, "sha256": str}
    for key, kind in kinds.items():
        if not isinstance(document.get(key), kind):
            raise ModelFileError(f"{_JSON} in {path} is incomplete: {key!r} is missing or of the wrong kind")
    if _digest(document) != document["sha256"]:
        raise ModelFileError(f"{_JSON} in {path} is not what was saved: damaged or changed")
    return document


def _resolve(name: str, classes: Sequence[type[Estimator]], path: Path) -> type[Estimator]:
    """Return the estimator class of that name: one the caller gave, or one defined inside this library."""
    for cls in classes:
        if f"{cls.__module__}.{cls.__qualname__}" == name:
            return cls
    match = _CLASS.fullmatch(name)
    if match is None:
        raise ModelFileError(
            f"{path} names the class {name!r}, which is not in holdfast; if it is yours, pass load(..., classes=[...])"
        )
    module_name, class_name = match.groups()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith("holdfast"):
            raise ModelFileError(f"{path} names the class {name!r}, which this version does not have") from error
        raise
    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, Estimator) and found.__module__ == module_name):
        raise ModelFileError(f"{path} names the class {name!r}, which is not an estimator of this version")
    return found
