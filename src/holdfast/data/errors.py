"""What is said when data cannot be used: one error and one warning, both with the place and the fix."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["DataError", "DataWarning", "suggest"]


class DataError(ValueError):
    """Data that cannot be used; the message names the place (file, row, column) and the fix.

    Examples:
        >>> raise DataError("a.csv, column 'y', row 3: the label is missing; fill it or drop the row")
        Traceback (most recent call last):
        ...
        holdfast.data.errors.DataError: a.csv, column 'y', row 3: the label is missing; fill it or drop the row
    """


class DataWarning(UserWarning):
    """Data that can be used but probably should be looked at first."""


def suggest(name: str, known: Iterable[str], limit: int = 8) -> str:
    """Return ``"; did you mean 'site'?"`` when a known name is close, else the list of what there is.

    Examples:
        >>> suggest("hopsital", ["hospital", "age"])
        "; did you mean 'hospital'?"
        >>> suggest("zzz", ["hospital", "age"])
        "; there is 'hospital', 'age'"
    """
    known = [str(k) for k in known]
    close = get_close_matches(str(name), known, n=1, cutoff=0.6)
    if not close:
        lowered = {k.lower(): k for k in known}
        close = [lowered[c] for c in get_close_matches(str(name).lower(), list(lowered), n=1, cutoff=0.6)]
    if close:
        return f"; did you mean {close[0]!r}?"
    shown = ", ".join(repr(k) for k in known[:limit])
    more = f" and {len(known) - limit} more" if len(known) > limit else ""
    return f"; there is {shown}{more}" if known else "; there is none"
