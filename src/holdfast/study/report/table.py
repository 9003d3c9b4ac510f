"""The study's table in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from holdfast.study.verdict import shown

__all__ = ["UNNAMED", "print_summary", "setting_tables"]

UNNAMED = "data"  # a study's only setting, where it was given no name


def _short(value: float, digits: int, signed: bool) -> str:
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 and not text.startswith(("1.", "+1.", "-1.")) else text


def _estimate(e: Mapping[str, float] | None, *, digits: int = 3, signed: bool = False) -> Text:
    if e is None:
        return Text("–", style="dim")
    text = Text(_short(e["mean"], digits, signed))
    low, high = _short(e["low"], digits, signed), _short(e["high"], digits, signed)
    return text.append(f"\n{low} {high}", style="dim")


def _method(row: Mapping[str, Any], setting: Mapping[str, Any]) -> Text:
    ship = (setting["verdict"] or {}).get("method") == row["method"]
    name = Text(shown(row["method"]), style="bold green" if ship else "")
    if ship:
        name.append("\n← ship", style="green")
    if row["failed"]:
        name.append(f"\n{row['failed']} failed", style="red")
    return name


def _ranked(setting: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return sorted(setting["methods"], key=lambda r: -r["average"]["mean"] if "average" in r else 1.0)


def setting_tables(setting: Mapping[str, Any], *, width: int = 100, oracle: bool = False) -> list[Table]:
    """Return methods x held-out environments with 95% intervals, best mean first.

    Environments that do not fit into ``width`` characters go into further tables.
    """
    baseline = setting["baseline"]
    parts = [setting["name"] if setting["name"] != UNNAMED else "", setting["shift"]]
    mark = " · ORACLE selection (looks at test labels)" if oracle else ""
    name_width = max(len(shown(r["method"])) for r in setting["methods"]) + 3
    widths = [max(len(str(e)), 7) + 3 for e in setting["held_out"]]
    groups: list[list[str]] = [[]]
    left = width - name_width - 12 - 10 - 14 - 8  # the four summary columns
    if sum(widths) <= left:
        groups = [list(setting["held_out"])]
    else:
        left = 0
        for e, w in zip(setting["held_out"], widths):
            if w > left:
                groups.append([])
                left = width - name_width
            groups[-1].append(e)
            left -= w
    tables = []
    for i, group in enumerate(groups):
        accuracy = f"accuracy on held-out environments, mean and 95% interval{mark}"
        heading = " · ".join([*(p for p in parts if p), accuracy])
        table = Table(
            title=escape(heading) if i == 0 else None,
            title_justify="left",
            title_style="bold",
            box=SIMPLE_HEAD,
            pad_edge=False,
        )
        table.add_column("method", no_wrap=True)
        for e in group:
            table.add_column(escape(str(e)), justify="right", overflow="fold")
        if i == 0:
            for column in ("average", "worst", f"vs {shown(baseline)}", "fit s"):
                table.add_column(column, justify="right", no_wrap=True)
        for row in _ranked(setting):
            table.add_row(_method(row, setting), *_cells(row, group, summary=i == 0))
        tables.append(table)
    return tables


def _cells(row: Mapping[str, Any], group: Sequence[str], *, summary: bool) -> list[Text]:
    if "average" not in row:
        return [Text("–", style="dim")] * (len(group) + 4 * summary)
    cells = [_estimate(row["environments"][e]["accuracy"], digits=2) for e in group]
    if not summary:
        return cells
    gap = row.get("difference")
    difference = _estimate(gap, signed=True)
    clear = "" if gap is None else "green" if gap["low"] > 0 else "red" if gap["high"] < 0 else ""
    if clear:
        difference.stylize(clear, 0, difference.plain.index("\n"))
    average, worst = _estimate(row["average"]), _estimate(row["worst"], digits=2)
    return [*cells, average, worst, difference, Text(f"{row['fit_seconds']:.2f}")]


def print_summary(summary: Mapping[str, Any], console: Console) -> None:
    """Print every setting's table, verdict and failures."""
    for setting in summary["settings"]:
        console.print()
        for table in setting_tables(setting, width=console.width, oracle=summary["oracle"]):
            console.print(table)
        found = setting["verdict"]
        if found is None:
            console.print("[red]No method finished on every held-out environment.[/red]")
        else:
            console.print(Text(found["sentence"], style="bold"))
            for line in (found["worse"], found["expect"], found["distrust"]):
                if line:
                    console.print(Text(line))
            if found["few_seeds"]:
                console.print(
                    Text("Fewer than three seeds: the intervals say little about other seeds.", style="yellow")
                )
        by_message: dict[str, list[str]] = {}
        for failure in setting["failures"]:
            by_message.setdefault(failure["message"], []).append(failure["cell"])
        for message, failed in list(by_message.items())[:5]:
            more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
            console.print(Text(f"failed: {failed[0]}{more}: {message}", style="red"))
        if len(by_message) > 5:
            console.print(Text(f"and {len(by_message) - 5} other failures, see the report", style="red"))
    missing = summary["cells"]["missing"]
    if missing:
        console.print(Text(f"{missing} of {summary['cells']['planned']} cells have not been run yet.", style="yellow"))
