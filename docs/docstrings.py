"""Lets the documentation read the formulas and cross-references of docstrings (reStructuredText roles) as Markdown."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

_BLOCK = re.compile(r"^( *)\.\. math::[ ]*((?:[^\n]*\n?)(?:\1[ ]+[^\n]+\n?)*)", re.M)
_INLINE = re.compile(r":math:`([^`]+)`")
_ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc):`(~?)([^`]+)`")


def _display(found: re.Match[str]) -> str:
    indent, body = found.group(1), " ".join(found.group(2).split())
    return f"\n{indent}$$\n{indent}{body}\n{indent}$$\n\n"


def _name(found: re.Match[str]) -> str:
    path = found.group(2)
    return f"`{path.rpartition('.')[2] if found.group(1) else path}`"


def to_markdown(text: str) -> str:
    """Return a docstring with its formulas between dollar signs and its roles as code."""
    text = _BLOCK.sub(_display, text)
    text = _INLINE.sub(lambda m: f"${' '.join(m.group(1).split())}$", text)
    return _ROLE.sub(_name, text)


class Roles(Extension):
    """Rewrites every docstring as it is collected."""

    def on_instance(self, *, obj: Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value)
