"""Named data sets: an explicit table, checked files, one call to load."""

from __future__ import annotations

import inspect
from functools import partial
from pathlib import Path
from typing import Any

from holdfast.data.environments import Environments
from holdfast.data.errors import DataError, suggest
from holdfast.data.named.catalogue import NAMED
from holdfast.data.named.files import NamedSet, SourceFile, cache_folder, data_folder, locate

__all__ = [
    "NAMED",
    "NamedSet",
    "SourceFile",
    "cache_folder",
    "data_folder",
    "describe_named",
    "is_local",
    "list_named",
    "load_named",
    "named_file",
    "named_options",
]


def _named(name: str) -> NamedSet:
    if name not in NAMED:
        raise DataError(f"there is no data set {name!r}{suggest(name, NAMED)} (holdfast data list shows all)")
    return NAMED[name]


def list_named() -> list[str]:
    """Return the names of all data sets.

    Examples:
        >>> "sklearn-digits" in list_named()
        True
    """
    return list(NAMED)


def describe_named(name: str) -> NamedSet:
    """Return what is known of a data set: contents, origin, licence, citation and files.

    Raises:
        DataError: for an unknown name, with the closest known one.

    Examples:
        >>> describe_named("iris").labels
        '3 species'
    """
    return _named(name)


def named_options(name: str) -> dict[str, Any]:
    """Return the options of a data set with their defaults.

    Examples:
        >>> named_options("pacs")
        {'size': 32}
    """
    parameters = inspect.signature(_named(name).load).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def load_named(name: str, **options: Any) -> Environments:
    """Load a data set by name.

    Files are looked for in ``$HOLDFAST_DATA/<data set>/``, then among the downloads, then at their official
    address where there is one of the same content; their SHA-256 is checked.

    Args:
        name: see :func:`list_named`.
        **options: of that data set, see :func:`named_options` and ``describe_named(name).load.__doc__``.

    Raises:
        DataError: for an unknown name or option, a file that cannot be had, or one that is not the expected.

    Examples:
        >>> load_named("iris")
        Environments(vector (4,), n=150, 1 environment: all 150; 3 classes)
    """
    named = _named(name)
    known = named_options(name)
    for option in options:
        if option not in known:
            raise DataError(f"data set {name!r} has no option {option!r}{suggest(option, known)}")
    return named.load(partial(locate, named), **options)


def named_file(name: str, file: str) -> Path:
    """Return the verified path of one file of a data set, for reading it in another way.

    Raises:
        DataError: as :func:`load_named`.
    """
    named = _named(name)
    if file not in [f.name for f in named.files]:
        raise DataError(f"data set {name!r} has no file {file!r}{suggest(file, [f.name for f in named.files])}")
    return locate(named, file)


def is_local(name: str) -> bool:
    """Say whether every file of a data set is already on this machine (nothing is verified or fetched).

    Examples:
        >>> is_local("iris")
        True
    """
    named = _named(name)
    local = data_folder()
    bases = [*([local] if local is not None else []), cache_folder()]
    return all(
        any((b / (f.folder or name) / n).is_file() for b in bases for n in (f.name, f.official_name) if n)
        for f in named.files
    )
