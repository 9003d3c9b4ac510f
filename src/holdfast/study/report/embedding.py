"""The page of an embedding of populations: a map of the codes, their distances, and how true the samples are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np

from holdfast.core.heat_map import heat_map
from holdfast.study.report.page import page_templates, write_page

__all__ = ["code_map", "principal_plane", "render_embedding_report", "write_embedding_report"]

# Told apart with any colour vision (Okabe and Ito); further groups get another mark.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7d8790", "#b8a800")
_SIDE, _EDGE = 560.0, 46.0
_NAMED = 40
_FONT, _LETTER = 12, 6.5  # of labels, and the width of a letter


def principal_plane(codes: Any) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the mean of codes, their two leading principal directions (l, 2), and the share of variance in these.

    Examples:
        >>> mean, plane, share = principal_plane([[0.0, 0.0, 1.0], [2.0, 0.0, 1.0], [4.0, 0.0, 1.0]])
        >>> mean.tolist(), round(share, 3)
        ([2.0, 0.0, 1.0], 1.0)
    """
    z = np.asarray(codes, dtype=float)
    mean = z.mean(0)
    _, s, vh = np.linalg.svd(z - mean, full_matrices=True)
    plane = np.zeros((z.shape[1], 2))
    k = min(2, z.shape[1])
    plane[:, :k] = vh[:k].T
    total = float((s**2).sum())
    return mean, plane, float((s[:2] ** 2).sum()) / total if total > 0 else 1.0


def _mark(x: float, y: float, k: int, size: float, opacity: float) -> str:
    colour, shape = _COLOURS[k % len(_COLOURS)], (k // len(_COLOURS)) % 3
    style = f'fill="{colour}" fill-opacity="{opacity:g}"'
    if shape == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:g}" {style}/>'
    if shape == 1:
        return f'<rect x="{x - size:.1f}" y="{y - size:.1f}" width="{2 * size:g}" height="{2 * size:g}" {style}/>'
    points = f"{x:.1f},{y - 1.3 * size:.1f} {x - 1.2 * size:.1f},{y + size:.1f} {x + 1.2 * size:.1f},{y + size:.1f}"
    return f'<polygon points="{points}" {style}/>'


def _label_places(marks: Sequence[tuple[float, float]], labels: Sequence[str]) -> list[tuple[float, float]]:
    """Return where every label begins (left end of its baseline): near its mark, over as little as can be."""
    spots = np.array([[x - 7, y - 8, x + 7, y + 8] for x, y in marks])
    taken = np.zeros((0, 4))
    found = []
    for (x, y), label in zip(marks, labels):
        wide = _LETTER * len(label)
        rows = [y - 11, y + 20, y + 4] + [y + sign * step for step in range(26, 140, 14) for sign in (-1, 1)]
        lefts = [x - wide / 2, x + 11, x - wide - 11]
        starts = np.array([(left, base) for base in rows for left in lefts if base != y + 4 or left != lefts[0]])
        kept = np.clip(starts, [2, _FONT], [max(2, _SIDE - wide - 2), _SIDE - 4])
        boxes = np.stack([kept[:, 0], kept[:, 1] - 11, kept[:, 0] + wide, kept[:, 1] + 3], 1)
        cost = np.hypot(*(kept - starts).T) + np.hypot(kept[:, 0] + wide / 2 - x, kept[:, 1] - y) / 20
        for others, price in ((spots, 1.0), (taken, 2.0)):
            overlap = np.minimum(boxes[:, None, 2:], others[:, 2:]) - np.maximum(boxes[:, None, :2], others[:, :2])
            cost += price * overlap.clip(0).prod(2).sum(1)
        best = int(cost.argmin())
        found.append((float(kept[best, 0]), float(kept[best, 1])))
        taken = np.concatenate([taken, boxes[best : best + 1]])
    return found


def code_map(
    codes: Any,
    names: Sequence[Any],
    draws: Sequence[Any] = (),
    path: Any = None,
    *,
    title: str = "map of the groups",
) -> str:
    """Return an SVG of the codes in their two leading principal directions, one colour a group.

    Args:
        codes: (groups, l), large marks with names.
        names: of the groups.
        draws: for each group the codes (k, l) of random parts of it, small marks: how much a code would vary.
        path: codes (steps, l) of an interpolation, drawn as a line.
        title: said to screen readers.

    Examples:
        >>> svg = code_map([[0.0, 0.0], [1.0, 1.0]], ["a", "b"], [[[0.1, 0.0]], [[1.0, 0.9]]])
        >>> svg.startswith("<svg"), svg.count("<circle")
        (True, 4)
    """
    z = np.asarray(codes, dtype=float)
    if z.ndim != 2 or len(z) != len(names):
        raise ValueError(f"codes must have shape ({len(names)}, l), one for each name, got {z.shape}")
    mean, plane, share = principal_plane(z)
    at = [(np.asarray(c, dtype=float) - mean) @ plane for c in (z, *draws, *([] if path is None else [path]))]
    everything = np.concatenate(at)
    low, high = everything.min(0), everything.max(0)
    span = np.maximum(high - low, 1e-9).max()  # one unit is as long on both axes
    middle = (low + high) / 2

    def place(p: np.ndarray) -> tuple[float, float]:
        u = (p - middle) / span * (_SIDE - 2 * _EDGE)
        return float(_SIDE / 2 + u[0]), float(_SIDE / 2 - u[1])

    parts = [f"<title>{escape(title)}</title>"]
    for k, cloud in enumerate(at[1 : 1 + len(draws)]):
        parts += [_mark(*place(p), k, 2.6, 0.4) for p in cloud]
    if path is not None:
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place, at[-1]))
        parts.append(f'<polyline points="{line}" fill="none" stroke="#7d8790" stroke-dasharray="5 4"/>')
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.4" fill="none" stroke="#7d8790"/>' for x, y in map(place, at[-1])
        ]
    marks = [place(p) for p in at[0]]
    parts += [_mark(x, y, k, 7, 1.0) for k, (x, y) in enumerate(marks)]
    short = [str(n) if len(str(n)) <= 24 else str(n)[:23] + "…" for n in names[:_NAMED]]
    for (x, y), (left, base), text in zip(marks, _label_places(marks, short), short):
        if abs(base - y) > 30:
            parts.append(
                f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{left + _LETTER * len(text) / 2:.1f}" '
                f'y2="{base + 3 if base < y else base - 12:.1f}" stroke="#7d8790" stroke-width="0.7"/>'
            )
        parts.append(
            f'<text x="{left:.1f}" y="{base:.1f}" fill="currentColor" font-size="{_FONT}" font-family="sans-serif">'
            f"{escape(text)}</text>"
        )
    parts.append(
        f'<text x="{_SIDE / 2}" y="{_SIDE + 14}" text-anchor="middle" fill="currentColor" font-size="12" '
        f'font-family="sans-serif" opacity="0.7">two principal directions of the codes, {share:.0%} of their '
        "variance</text>"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_SIDE:.0f} {_SIDE + 22:.0f}" role="img" '
        f'style="max-width:{_SIDE:.0f}px">{"".join(parts)}</svg>'
    )


def _said(s: Mapping[str, Any]) -> list[str]:
    rows = s["groups"]
    errors, floors = (np.array([r[k] for r in rows], dtype=float) for k in ("sampled", "real"))
    near, far = s["nearest"], s["farthest"]
    said = [
        f"{len(rows)} groups of {sum(r['points'] for r in rows):,} points as codes of {s['code_dim']} numbers. "
        f"Nearest are {near[0]} and {near[1]}, farthest {far[0]} and {far[1]}."
    ]
    ratio = float(errors.mean() / max(floors.mean(), 1e-12))
    verdict = (
        "as near as two halves of a real group are"
        if ratio <= 1.5
        else "further off than two halves of a real group: train longer (--steps), or use a longer code (--code-dim)"
    )
    said.append(
        f"Points sampled from a code lie at an energy distance of {errors.mean():.3g} from the group's own "
        f"(two halves of a group: {floors.mean():.3g}): {verdict}."
    )
    return said


def render_embedding_report(summary: Mapping[str, Any], figures: Mapping[str, str]) -> str:
    """Return the page.

    Args:
        summary: JSON-ready facts: "name", "groups" (rows of "group", "points", "sampled", "real"), "distances",
            "code_dim", "nearest", "farthest", "between", "command", "settings", "versions", "files".
        figures: SVG texts: "map".
    """
    names = [r["group"] for r in summary["groups"]]
    few = names[:24]
    heat = heat_map(
        np.asarray(summary["distances"])[: len(few), : len(few)], few, few, title="distances of codes", digits=2
    )
    template = page_templates().get_template("embedding.html")
    return template.render(s=summary, map=figures["map"], heat=heat, said=_said(summary), more=len(names) - len(few))


def write_embedding_report(summary: Mapping[str, Any], figures: Mapping[str, str], path: str | Path) -> Path:
    """Write the page to ``path``."""
    return write_page(render_embedding_report(summary, figures), path)
