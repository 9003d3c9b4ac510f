"""Where the files of a named data set come from: a local folder, the cache, or their official address."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath

from holdfast.data.environments import Environments
from holdfast.data.errors import DataError

__all__ = ["NamedSet", "SourceFile", "cache_folder", "data_folder", "locate"]

FOLDER_VARIABLE = "HOLDFAST_DATA"
Get = Callable[[str], Path]


@dataclass(frozen=True)
class SourceFile:
    """One file of a data set.

    Attributes:
        name: file name below ``<folder>/<data set>/``.
        sha256: of that file.
        url: official address of the same content; empty where the file was made by converting.
        url_sha256: of what the address gives (of the archive's member), where compression or format differ.
        member: name inside the archive that the address gives.
        folder: data set whose folder holds the file, where it is shared.
    """

    name: str
    sha256: str
    url: str = ""
    url_sha256: str = ""
    member: str = ""
    folder: str = ""

    @property
    def official_name(self) -> str:
        """Name under which a download is kept."""
        return self.member or PurePosixPath(self.url).name


@dataclass(frozen=True)
class NamedSet:
    """A data set by name.

    Attributes:
        name: what :func:`holdfast.data.load_named` is called with.
        title: one line.
        load: ``load(get, *, options) -> Environments`` where ``get(file name)`` gives a verified path.
        kind, environments, labels: what ``x``, the environments and the labels are, in words.
        files: its files; none for what ships with scikit-learn.
        origin: where the data come from.
        licence: terms of use.
        citation: whom to cite.
    """

    name: str
    title: str
    load: Callable[..., Environments] = field(repr=False)
    kind: str
    environments: str
    labels: str
    files: tuple[SourceFile, ...] = ()
    origin: str = ""
    licence: str = ""
    citation: str = ""


def data_folder() -> Path | None:
    """Return the folder that the environment variable ``HOLDFAST_DATA`` names, if it is set.

    Raises:
        DataError: when it names no folder.
    """
    value = os.environ.get(FOLDER_VARIABLE, "").strip()
    if not value:
        return None
    folder = Path(value).expanduser()
    if not folder.is_dir():
        raise DataError(f"{FOLDER_VARIABLE} is {value!r}, which is no folder")
    return folder


def cache_folder() -> Path:
    """Return the folder of downloads, that of the operating system for caches."""
    import pooch

    return Path(pooch.os_cache("holdfast"))


def locate(named: NamedSet, name: str) -> Path:
    """Return the verified path of a file: from ``HOLDFAST_DATA``, the cache, or downloaded.

    Raises:
        DataError: when the content is not what is expected (both SHA-256 are named), when the file is in
            neither folder and has no official address, or when the download fails.
    """
    file = next(f for f in named.files if f.name == name)
    folder, local = file.folder or named.name, data_folder()
    names = [file.name] if file.official_name in ("", file.name) else [file.name, file.official_name]
    for base in [*([local] if local is not None else []), cache_folder()]:
        for candidate in names:
            path = base / folder / candidate
            if path.is_file():
                return _verified(path, file)
    if file.url:
        return _download(file, cache_folder() / folder, named.name)
    looked = f"{local / folder} does not hold it" if local is not None else f"{FOLDER_VARIABLE} is not set"
    raise DataError(
        f"data set {named.name!r} needs the file {folder}/{file.name}, and {looked}. There is no official download "
        f"of it in this form; it was made from: {named.origin}. Set {FOLDER_VARIABLE} to a folder that holds "
        f"{folder}/{file.name} (SHA-256 {file.sha256})"
    )


def _verified(path: Path, file: SourceFile) -> Path:
    stat = path.stat()
    found = sha256_of(str(path), stat.st_size, stat.st_mtime_ns)
    expected = [h for h in (file.sha256, file.url_sha256) if h]
    if found not in expected:
        raise DataError(
            f"{path} is not the expected file: its SHA-256 is {found}, expected {' or '.join(expected)}; "
            "remove it, or put the right file in its place"
        )
    return path


@cache
def sha256_of(path: str, size: int, modified: int) -> str:
    """Return a file's SHA-256; computed once for each state of the file."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _download(file: SourceFile, folder: Path, set_name: str) -> Path:
    import pooch

    expected = file.url_sha256 or file.sha256
    fix = f"check the connection, or set {FOLDER_VARIABLE} to a folder that holds {folder.name}/{file.name}"
    archive = PurePosixPath(file.url).name if file.member else file.official_name
    try:
        fetched = pooch.retrieve(
            file.url, known_hash=None if file.member else f"sha256:{expected}", fname=archive, path=folder
        )
        if file.member:
            with zipfile.ZipFile(fetched) as z:
                z.extract(file.member, folder)
            Path(fetched).unlink()
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as e:
        raise DataError(f"data set {set_name!r}: {file.url} could not be fetched ({e}); {fix}") from e
    return _verified(folder / file.official_name, file)
