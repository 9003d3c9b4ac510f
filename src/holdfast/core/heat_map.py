"""A table of numbers as a picture: SVG text that needs nothing from outside."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape

import numpy as np

from holdfast.core.checks import check_number

__all__ = ["heat_map"]

# Dark blue to yellow in even steps of lightness, so that the order is seen in grey too.
_STOPS = ((43, 24, 92), (45, 83, 140), (33, 137, 141), (96, 187, 102), (249, 227, 60))
_CELL = (58.0, 26.0)


def _colour(u: float) -> tuple[str, str]:
    """Return the fill at ``u`` in [0, 1] and the ink that is read on it."""
    place = min(max(u, 0.0), 1.0) * (len(_STOPS) - 1)
    k = min(int(place), len(_STOPS) - 2)
    r, g, b = (round(p + (q - p) * (place - k)) for p, q in zip(_STOPS[k], _STOPS[k + 1]))
    return f"#{r:02x}{g:02x}{b:02x}", "#000" if 0.3 * r + 0.59 * g + 0.11 * b > 120 else "#fff"


def heat_map(
    values: Any,
    rows: Sequence[Any],
    columns: Sequence[Any],
    *,
    title: str,
    row_axis: str = "",
    column_axis: str = "",
    digits: int = 3,
    mark: tuple[int, int] | None = None,
) -> str:
    """Return an SVG with one coloured cell per number, the number in it, and names along two sides.

    Args:
        values: (rows, columns); a cell that is NaN stays empty.
        rows, columns: names.
        title: said to screen readers and on hovering.
        row_axis, column_axis: what rows and columns are.
        digits: after the point.
        mark: (row, column) of a cell that gets a frame.

    Raises:
        ValueError: for names that do not match the shape, or a mark outside it.

    Examples:
        >>> picture = heat_map([[0.2, 0.9]], ["block 1"], ["t = 10", "t = 90"], title="accuracy", mark=(0, 1))
        >>> picture.startswith("<svg"), picture.count("<rect"), "0.900" in picture
        (True, 3, True)
    """
    v = np.asarray(values, dtype=float)
    if v.shape != (len(rows), len(columns)) or v.size == 0:
        raise ValueError(f"values must have shape ({len(rows)}, {len(columns)}) as the names have, got {v.shape}")
    check_number("digits", digits, low=0, integer=True)
    if mark is not None and not (0 <= mark[0] < v.shape[0] and 0 <= mark[1] < v.shape[1]):
        raise ValueError(f"mark must name a cell of {v.shape[0]} x {v.shape[1]}, got {mark}")
    finite = v[np.isfinite(v)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    wide, tall = _CELL
    left = 14 + 7.5 * max(len(str(r)) for r in rows) + (18 if row_axis else 0)
    # Names that are wider than a cell are turned.
    longest = 7.5 * max(len(str(c)) for c in columns)
    slant = longest > wide
    top = 10.0 + (18 if column_axis else 0) + (8 + 0.71 * longest if slant else 18)
    width = left + wide * v.shape[1] + (max(10.0, 0.71 * longest - wide / 2) if slant else 10)
    height = top + tall * v.shape[0] + 10
    parts = [f"<title>{escape(title)}</title>"]

    def text(
        x: float, y: float, value: Any, anchor: str = "middle", fill: str = "currentColor", more: str = ""
    ) -> None:
        label = escape(str(value))
        parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}"{more}>{label}</text>')

    if column_axis:
        text(left + wide * v.shape[1] / 2, 18, column_axis)
    if row_axis:
        middle = top + tall * v.shape[0] / 2
        text(14, middle, row_axis, more=f' transform="rotate(-90 14 {middle:.1f})"')
    for j, name in enumerate(columns):
        x, y = left + wide * (j + 0.5), top - 7
        if slant:
            text(x, y, name, anchor="start", more=f' transform="rotate(-45 {x:.1f} {y:.1f})"')
        else:
            text(x, y, name)
    for i, name in enumerate(rows):
        text(left - 8, top + tall * (i + 0.5) + 4.5, name, anchor="end")
        for j, value in enumerate(v[i]):
            x, y = left + wide * j, top + tall * i
            if not math.isfinite(value):
                continue
            fill, ink = _colour((value - low) / (high - low) if high > low else 0.5)
            number = f"{value:.{digits}f}".replace("-", "−")
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{wide - 1:.1f}" height="{tall - 1:.1f}" fill="{fill}">'
                f"<title>{escape(f'{name}, {columns[j]}: {number}')}</title></rect>"
            )
            text(x + wide / 2, y + tall / 2 + 4.5, number, fill=ink)
    if mark is not None:
        x, y = left + wide * mark[1], top + tall * mark[0]
        parts.append(
            f'<rect x="{x - 1:.1f}" y="{y - 1:.1f}" width="{wide + 1:.1f}" height="{tall + 1:.1f}" fill="none" '
            'stroke="currentColor" stroke-width="2.5"/>'
        )
    label = escape(title, {'"': "&quot;"})
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'aria-label="{label}" style="max-width:{width:.0f}px" font-family="system-ui, sans-serif" font-size="13">'
        f"{''.join(parts)}</svg>"
    )
