"""Charts as SVG text: drawn here, coloured by the page's style sheet, needing nothing from outside the file."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

__all__ = ["Bar", "Series", "by_environment", "forest", "lines", "nice_ticks"]

_ROW = 30
_FONT = 13


@dataclass(frozen=True)
class Bar:
    """One line of a forest plot: a dot with its interval; ``style`` is a CSS class."""

    label: str
    mean: float
    low: float
    high: float
    style: str = "plain"


@dataclass(frozen=True)
class Series:
    """A curve: points, a name, and a CSS class."""

    label: str
    points: Sequence[tuple[float, float]]
    style: str


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round numbers that span ``[low, high]``, about ``count`` of them.

    Examples:
        >>> nice_ticks(0.13, 0.52, 4)
        [0.2, 0.3, 0.4, 0.5]
    """
    span = max(high - low, 1e-9)
    raw = span / max(1, count - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.7)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _scale(low: float, high: float, log: bool) -> Callable[[float], float]:
    """Return the map from ``[low, high]`` to [0, 1]."""
    if log:
        span = max(math.log(high / low), 1e-9)
        return lambda v: math.log(v / low) / span
    return lambda v: (v - low) / max(high - low, 1e-9)


def _powers(low: float, high: float) -> list[float]:
    """Return round numbers of a logarithmic axis, at most eight of them."""
    for factors in ((1, 2, 5), (1, 3), (1,)):
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        found = [f * 10.0**k for k in range(first, last + 1) for f in factors if low <= f * 10.0**k <= high]
        if len(found) <= 8:
            break
    return found


def _tick(value: float, signed: bool = False) -> str:
    text = f"{value:+.3f}" if signed and value else f"{value:.3f}"
    text = text.rstrip("0").rstrip(".")
    return text.replace("-", "−") if text not in ("", "-0") else "0"


def _text(x: float, y: float, text: str, *, anchor: str = "start", style: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{style}">{escape(text)}</text>'


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(title, {chr(34): "&quot;"})}" '
        f'style="max-width:{width:.0f}px"><title>{escape(title)}</title>{"".join(parts)}</svg>'
    )


def _shorten(label: str, length: int = 22) -> str:
    return label if len(label) <= length else label[: length - 1] + "…"


def forest(title: str, bars: Sequence[Bar], *, zero: bool = False, axis: str, labels: bool = True) -> str:
    """Return a forest plot: a row for every bar, with a line at zero for differences."""
    if not bars:
        return ""
    longest = max(len(_shorten(b.label)) for b in bars)
    left = 18 + (8.8 * longest if labels else 0)
    width, right, top = 460.0, 76.0, 8.0
    low, high = min(b.low for b in bars), max(b.high for b in bars)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    margin = 0.06 * max(high - low, 0.02)
    low, high = low - margin, high + margin
    height = top + _ROW * len(bars) + 44

    def at(v: float) -> float:
        return left + (v - low) / (high - low) * (width - left - right)

    bottom = top + _ROW * len(bars)
    parts = []
    for tick in nice_ticks(low, high, 5):
        parts.append(f'<line x1="{at(tick):.1f}" x2="{at(tick):.1f}" y1="{top}" y2="{bottom}" class="grid"/>')
        parts.append(_text(at(tick), bottom + 16, _tick(tick, zero), anchor="middle", style="tick"))
    if zero:
        parts.append(f'<line x1="{at(0):.1f}" x2="{at(0):.1f}" y1="{top}" y2="{bottom}" class="zero"/>')
    for i, b in enumerate(bars):
        y = top + _ROW * (i + 0.5)
        tip = f"<title>{escape(f'{b.label}: {b.mean:.3f} [{b.low:.3f}, {b.high:.3f}]')}</title>"
        parts.append(f'<g class="bar {b.style}">{tip}')
        if labels:
            parts.append(_text(left - 10, y + 4.5, _shorten(b.label), anchor="end", style="label"))
        parts.append(f'<line x1="{at(b.low):.1f}" x2="{at(b.high):.1f}" y1="{y}" y2="{y}" class="whisker"/>')
        parts.append(f'<circle cx="{at(b.mean):.1f}" cy="{y}" r="5.5" class="dot"/>')
        number = f"{b.mean:+.3f}" if zero else f"{b.mean:.3f}"
        parts.append(_text(width - right + 14, y + 4.5, number.replace("-", "−"), style="value"))
        parts.append("</g>")
    parts.append(_text((left + width - right) / 2, bottom + 36, axis, anchor="middle", style="axis"))
    return _svg(width, height, title, parts)


def by_environment(title: str, groups: Sequence[tuple[str, Sequence[Bar]]], *, axis: str) -> str:
    """Return one row for every environment with a dot for every method; the styled ones are drawn last, on top."""
    longest = max(len(_shorten(name)) for name, _ in groups)
    left, width, right, top, row = 18 + 8.8 * longest, 380.0, 22.0, 8.0, 48
    bars = [b for _, group in groups for b in group]
    low, high = min(b.low for b in bars), max(b.high for b in bars)
    margin = 0.05 * max(high - low, 0.02)
    low, high = max(0.0, low - margin), min(1.0, high + margin)
    bottom = top + row * len(groups)

    def at(v: float) -> float:
        return left + (v - low) / (high - low) * (width - left - right)

    parts = []
    for tick in nice_ticks(low, high, 6):
        parts.append(f'<line x1="{at(tick):.1f}" x2="{at(tick):.1f}" y1="{top}" y2="{bottom}" class="grid"/>')
        parts.append(_text(at(tick), bottom + 16, _tick(tick), anchor="middle", style="tick"))
    for i, (name, group) in enumerate(groups):
        y = top + row * (i + 0.5)
        parts.append(_text(left - 10, y + 4.5, _shorten(name), anchor="end", style="label"))
        styled = [b for b in group if b.style != "plain"]
        for b in group:
            if b.style == "plain":
                tip = escape(f"{b.label}: {b.mean:.3f} [{b.low:.3f}, {b.high:.3f}]")
                parts.append(
                    f'<circle cx="{at(b.mean):.1f}" cy="{y}" r="4" class="faint"><title>{tip}</title></circle>'
                )
        for k, b in enumerate(styled):
            shift = y + (k - (len(styled) - 1) / 2) * 13
            tip = escape(f"{b.label}: {b.mean:.3f} [{b.low:.3f}, {b.high:.3f}]")
            parts.append(
                f'<g class="bar {b.style}"><title>{tip}</title>'
                f'<line x1="{at(b.low):.1f}" x2="{at(b.high):.1f}" y1="{shift}" y2="{shift}" class="whisker"/>'
                f'<circle cx="{at(b.mean):.1f}" cy="{shift}" r="5" class="dot"/></g>'
            )
    parts.append(_text((left + width - right) / 2, bottom + 36, axis, anchor="middle", style="axis"))
    return _svg(width, bottom + 44, title, parts)


def lines(
    title: str,
    series: Sequence[Series],
    *,
    x_axis: str,
    y_axis: str,
    diagonal: bool = False,
    full: bool = False,
    limits: tuple[float, float] = (0.0, 1.0),
    log_x: bool = False,
    log_y: bool = False,
) -> str:
    """Return curves over one x axis; with a diagonal for calibration; ``full`` shows 0 to 1 on the y axis.

    Args:
        title, series, x_axis, y_axis: what is shown.
        diagonal, full: fix the axes to [0, 1].
        limits: values that the y axis never goes beyond.
        log_x, log_y: logarithmic axes, for positive values; ticks on x are the points' own values.
    """
    points = [p for s in series for p in s.points]
    if not points:
        return ""
    width, height, left, right, top, bottom = 420.0, 330.0, 50.0, 14.0, 12.0, 48.0
    x_low, x_high = (0.0, 1.0) if diagonal else (min(p[0] for p in points), max(p[0] for p in points))
    y_low, y_high = (0.0, 1.0) if diagonal or full else (min(p[1] for p in points), max(p[1] for p in points))
    if log_y:
        y_low, y_high = y_low / 1.25, y_high * 1.25
    elif not (diagonal or full):
        margin = 0.08 * max(y_high - y_low, 0.02)
        y_low, y_high = max(limits[0], y_low - margin), min(limits[1], y_high + margin)
    across, up = _scale(x_low, x_high, log_x), _scale(y_low, y_high, log_y)

    def at(p: tuple[float, float]) -> tuple[float, float]:
        return left + across(p[0]) * (width - left - right), height - bottom - up(p[1]) * (height - top - bottom)

    parts = []
    for tick in sorted({p[0] for p in points}) if log_x else nice_ticks(x_low, x_high, 6):
        x, _ = at((tick, y_low))
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{height - bottom}" class="grid"/>')
        parts.append(_text(x, height - bottom + 17, _tick(tick), anchor="middle", style="tick"))
    for tick in _powers(y_low, y_high) if log_y else nice_ticks(y_low, y_high, 6):
        _, y = at((x_low, tick))
        parts.append(f'<line x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(_text(left - 8, y + 4, _tick(tick), anchor="end", style="tick"))
    if diagonal:
        (x1, y1), (x2, y2) = at((0, 0)), at((1, 1))
        parts.append(f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" class="zero"/>')
    for s in series:
        path = " ".join(f"{'M' if i == 0 else 'L'}{x:.1f} {y:.1f}" for i, (x, y) in enumerate(map(at, s.points)))
        dots = "".join(
            f'<circle cx="{at(p)[0]:.1f}" cy="{at(p)[1]:.1f}" r="3.5" class="dot">'
            f"<title>{escape(f'{s.label}: {p[0]:.2f}, {p[1]:.3f}')}</title></circle>"
            for p in s.points
        )
        parts.append(f'<g class="bar {s.style}"><path d="{path}" class="curve"/>{dots}</g>')
    parts.append(_text((left + width - right) / 2, height - 8, x_axis, anchor="middle", style="axis"))
    middle = (top + height - bottom) / 2
    parts.append(
        f'<text x="14" y="{middle}" text-anchor="middle" class="axis" '
        f'transform="rotate(-90 14 {middle})">{escape(y_axis)}</text>'
    )
    return _svg(width, height, title, parts)
