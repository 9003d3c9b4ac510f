"""BibTeX of the papers behind an object."""

from __future__ import annotations

import inspect
import json
import re
from functools import cache
from importlib.resources import files
from typing import Any

from torch import nn

from holdfast.papers.catalogue import papers
from holdfast.papers.record import Paper

__all__ = ["bibtex", "cite"]

_STOP = {"a", "an", "the", "on", "of", "for", "and", "in", "to", "with", "via", "what", "when", "are", "is"}


def bibtex(paper: Paper) -> str:
    """Return the BibTeX entry of a paper.

    Examples:
        >>> from holdfast.papers.catalogue import describe
        >>> print(bibtex(describe(27)).splitlines()[0])
        @misc{kusupati2022matryoshka,
    """
    words = [w for w in re.findall(r"[a-z]+", paper.title.lower()) if w not in _STOP]
    author = re.sub(r"[^a-z]", "", paper.first_author.lower())
    lines = [
        f"@misc{{{author}{paper.year}{words[0] if words else paper.number},",
        f"  title = {{{paper.title}}},",
        *([f"  author = {{{paper.first_author} and others}},"] if paper.first_author else []),
        f"  year = {{{paper.year}}},",
        f"  eprint = {{{paper.arxiv}}},",
        "  archivePrefix = {arXiv},",
    ]
    if paper.venue:
        lines.append(f"  note = {{{paper.venue}}},")
    return "\n".join([*lines, "}"])


@cache
def _entries() -> dict[str, tuple[str, ...]]:
    """Return, for every part's qualified name, the BibTeX entries behind it."""
    out: dict[str, tuple[str, ...]] = {}
    for paper in papers():
        for part in paper.parts:
            out[part] = (*out.get(part, ()), bibtex(paper))
    references = json.loads((files("holdfast.papers") / "references.json").read_text(encoding="utf-8"))
    for entry in references:
        for part in entry["parts"]:
            out[part] = (*out.get(part, ()), entry["bibtex"])
    return out


def _names(obj: Any) -> list[str]:
    target = obj if inspect.isclass(obj) or inspect.isroutine(obj) else type(obj)
    classes = inspect.getmro(target) if inspect.isclass(target) else (target,)
    names = [f"{c.__module__}.{c.__qualname__}" for c in classes if hasattr(c, "__module__")]
    network = obj if isinstance(obj, nn.Module) else getattr(obj, "network_", None)
    if isinstance(network, nn.Module):
        names += [f"{type(m).__module__}.{type(m).__qualname__}" for m in network.modules()]
    return names


def cite(obj: Any) -> str:
    """Return BibTeX of the papers behind an estimator, a part, a class or a function of the library.

    A fitted estimator also cites the parts that its network is made of.

    Raises:
        ValueError: when no paper is known behind ``obj``.

    Examples:
        >>> from holdfast.shift import GroupDRO
        >>> print(cite(GroupDRO).splitlines()[0])
        @inproceedings{sagawa2020distributionally,
    """
    entries = _entries()
    found = dict.fromkeys(e for name in _names(obj) for e in entries.get(name, ()))
    if not found:
        what = getattr(obj, "__qualname__", type(obj).__qualname__)
        raise ValueError(f"no paper is recorded behind {what}")
    return "\n\n".join(found)
