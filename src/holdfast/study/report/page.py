"""The report: one HTML file with everything in it, that opens without a network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from holdfast.study.report.charts import Bar, Series, by_environment, forest, lines
from holdfast.study.verdict import shown

__all__ = ["page_templates", "render_report", "write_page", "write_report"]


def _ranked(setting: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    done = [r for r in setting["methods"] if "average" in r]
    return sorted(done, key=lambda r: -r["average"]["mean"])


def _style(row: Mapping[str, Any], setting: Mapping[str, Any]) -> str:
    if row["method"] == setting["verdict"]["method"]:
        return "ship"
    return "base" if row["method"] == setting["baseline"] else "plain"


def _charts(setting: Mapping[str, Any], coverages: list[float]) -> dict[str, str]:
    rows = _ranked(setting)
    if not rows:
        return {}
    name = setting["name"]

    def bar(row: Mapping[str, Any], e: Mapping[str, float]) -> Bar:
        return Bar(shown(row["method"]), e["mean"], e["low"], e["high"], _style(row, setting))

    charts = {
        "average": forest(
            f"{name}: mean accuracy on held-out environments", [bar(r, r["average"]) for r in rows], axis="accuracy"
        ),
        "difference": forest(
            f"{name}: paired difference to {shown(setting['baseline'])}",
            [bar(r, r["difference"]) for r in rows if "difference" in r],
            zero=True,
            axis=f"accuracy minus that of {shown(setting['baseline'])}",
        ),
        "environments": by_environment(
            f"{name}: accuracy by held-out environment",
            [(e, [bar(r, r["environments"][e]["accuracy"]) for r in rows]) for e in setting["held_out"]],
            axis="accuracy",
        ),
    }
    marked = [r for r in rows if _style(r, setting) != "plain"]
    charts["calibration"] = lines(
        f"{name}: calibration on held-out environments",
        [Series(shown(r["method"]), [(c, a) for c, a, _ in r["curve"]], _style(r, setting)) for r in marked],
        x_axis="confidence",
        y_axis="accuracy",
        diagonal=True,
    )
    trusted = next((r for r in marked if _style(r, setting) == "ship" and r["distrust"]), None)
    charts["distrust"] = ""
    if trusted is not None:
        d = trusted["distrust"]
        charts["distrust"] = lines(
            f"{name}: accuracy when the most distrusted are withheld",
            [
                Series("by confidence", list(zip(coverages, d["coverage_confidence"])), "base"),
                Series("by distrust score", list(zip(coverages, d["coverage"])), "ship"),
            ],
            x_axis="share of samples answered",
            y_axis="accuracy on those",
        )
    return charts


def _number(value: float | None, form: str = ".3f") -> str:
    return "–" if value is None else format(value, form).replace("-", "−")


def page_templates() -> Environment:
    """Return the templates of all pages, which share one style sheet."""
    environment = Environment(
        loader=PackageLoader("holdfast.study.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    return environment


def render_report(summary: Mapping[str, Any]) -> str:
    """Return the page of a summary."""
    environment = page_templates()
    environment.filters["shown"] = shown
    settings = [
        {"facts": s, "rows": _ranked(s), "charts": _charts(s, summary["coverages"]), "id": f"setting-{i}"}
        for i, s in enumerate(summary["settings"])
    ]
    return environment.get_template("report.html").render(
        s=summary,
        settings=settings,
        spec_yaml=yaml.safe_dump(summary["spec"], sort_keys=False, allow_unicode=True),
    )


def write_report(summary: Mapping[str, Any], path: str | Path) -> Path:
    """Write the page of a summary to ``path``."""
    return write_page(render_report(summary), path)


def write_page(html: str, path: str | Path) -> Path:
    """Write a rendered page, in a new folder where there is none."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html, encoding="utf-8")
    return path
