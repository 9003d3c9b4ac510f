"""The study's table in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from holdfast.study.verdict import shown

__all__ = ["print_summary", "setting_table"]


def _estimate(e: Mapping[str, float] | None, *, signed: bool = False) -> Text:
    if e is None:
        return Text("–", style="dim")
    form = "+.3f" if signed else ".3f"
    text = Text(f"{e['mean']:{form}}")
    return text.append(f"\n{e['low']:{form}} {e['high']:{form}}", style="dim")


def setting_table(setting: Mapping[str, Any], *, oracle: bool = False) -> Table:
    """Return methods x held-out environments with 95% intervals, best mean first."""
    baseline = setting["baseline"]
    ship = (setting["verdict"] or {}).get("method")
    title = setting["name"] + (f" · {setting['shift']}" if setting["shift"] else "")
    mark = " · ORACLE selection (looks at test labels)" if oracle else ""
    table = Table(
        title=escape(f"{title} · accuracy on held-out environments, mean and 95% interval{mark}"),
        title_justify="left",
        title_style="bold",
    )
    table.add_column("method", no_wrap=True)
    for name in setting["held_out"]:
        table.add_column(escape(str(name)), justify="right", overflow="fold")
    for name in ("average", "worst", f"vs {shown(baseline)}", "fit s"):
        table.add_column(name, justify="right", no_wrap=True)
    rows = sorted(setting["methods"], key=lambda r: -r["average"]["mean"] if "average" in r else 1.0)
    for row in rows:
        name = Text(shown(row["method"]), style="bold green" if row["method"] == ship else "")
        if row["method"] == ship:
            name.append(" ← ship", style="green")
        if row["failed"]:
            name.append(f"\n{row['failed']} failed", style="red")
        if "average" not in row:
            table.add_row(name, *[Text("–", style="dim")] * (len(setting["held_out"]) + 4))
            continue
        gap = row.get("difference")
        difference = _estimate(gap, signed=True)
        if gap is not None:
            clear = "green" if gap["low"] > 0 else "red" if gap["high"] < 0 else ""
            difference.stylize(clear, 0, difference.plain.index("\n")) if clear else None
        table.add_row(
            name,
            *[_estimate(row["environments"][e]["accuracy"]) for e in setting["held_out"]],
            _estimate(row["average"]),
            _estimate(row["worst"]),
            difference,
            f"{row['fit_seconds']:.2f}",
        )
    return table


def print_summary(summary: Mapping[str, Any], console: Console) -> None:
    """Print every setting's table, verdict and failures."""
    for setting in summary["settings"]:
        console.print()
        console.print(setting_table(setting, oracle=summary["oracle"]))
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
        for failure in setting["failures"][:5]:
            console.print(Text(f"failed: {failure['cell']}: {failure['message']}", style="red"))
        if len(setting["failures"]) > 5:
            console.print(Text(f"and {len(setting['failures']) - 5} more failures, see the report", style="red"))
    missing = summary["cells"]["missing"]
    if missing:
        console.print(Text(f"{missing} of {summary['cells']['planned']} cells have not been run yet.", style="yellow"))
