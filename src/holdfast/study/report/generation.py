"""The report of a generator: one HTML file with pictures, curves and numbers in it, that opens without a network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdfast.core.heat_map import heat_map
from holdfast.study.report.charts import Series, lines
from holdfast.study.report.page import page_templates, write_page

__all__ = ["render_generation_report", "verdict", "write_generation_report"]


def verdict(evaluation: Mapping[str, Any]) -> list[str]:
    """Return in sentences what the numbers say.

    Args:
        evaluation: of :meth:`holdfast.diffusion.evaluation.GeneratorEvaluation.to_dict`.
    """
    mine, real, trivial = (evaluation[k] for k in ("scores", "real", "trivial"))
    said = [
        f"Fréchet distance {_short(mine['frechet'])} with {evaluation['best_steps']} sampler steps; other real data "
        f"score {_short(real['frechet'])}, independent Gaussians {_short(trivial['frechet'])}."
    ]
    said.append(
        f"{mine['coverage']:.0%} of the real data have a sample in their neighbourhood (other real data reach "
        f"{real['coverage']:.0%}); samples lie {mine['density'] / max(real['density'], 1e-9):.0%} as deep among real "
        "data as other real data do."
    )
    fidelity, variety = (mine[k] / max(real[k], 1e-9) for k in ("density", "coverage"))
    if min(fidelity, variety) < 0.85:
        fix = (
            "samples lie off the real data: train longer, or use guidance"
            if fidelity < variety
            else "too little variety: train longer, use less guidance, or more data"
        )
        said.append(f"The weak side: {fix}.")
    if (copies := evaluation["copies"]) is not None:
        close = "no sign of copying" if copies <= 0.1 else "look at the neighbours below: this may be copying"
        said.append(
            f"{copies:.0%} of the samples lie as near to a training sample as the nearest 5% of real data: {close}."
        )
    return said


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _charts(summary: Mapping[str, Any]) -> dict[str, str]:
    e = summary["evaluation"]
    points = [(float(s["steps"]), max(s["frechet"], 1e-9)) for s in e["steps"]]
    first, last = points[0][0], points[-1][0]
    floor = max(e["real"]["frechet"], 1e-9)
    charts = {"steps": "", "loss": "", "features": ""}
    if len(points) > 1:
        series = [
            Series(f"{e['sampler']} sampler", points, "ship"),
            Series("other real data", [(first, floor), (last, floor)], "base"),
        ]
        charts["steps"] = lines(
            "Fréchet distance over sampler steps", series, x_axis="sampler steps", y_axis="Fréchet distance",
            log_x=True, log_y=True,
        )  # fmt: skip
    history = [h for h in summary["history"] if "loss" in h]
    curves = [Series("training", [(h["step"], h.get("denoising", h["loss"])) for h in history], "plain smooth")]
    held = [(h["step"], -h["score"]) for h in summary["history"] if "score" in h and h["score"] < 0]
    if held:
        curves.append(Series("held-out data", held, "ship"))
    if len(history) > 1:
        charts["loss"] = lines(
            "Denoising error over training", curves, x_axis="step", y_axis="denoising error", log_y=True
        )
    f = summary["features"]
    if f is not None and f["accuracy"]:
        charts["features"] = heat_map(
            f["accuracy"], f["blocks"], [f"{t:.3g}" for t in f["times"]],
            title="accuracy of a linear probe by block and time", row_axis="block", column_axis="time",
            mark=(f["blocks"].index(f["block"]), f["times"].index(f["time"])),
        )  # fmt: skip
    return charts


def render_generation_report(summary: Mapping[str, Any], pictures: Mapping[str, Any]) -> str:
    """Return the page.

    Args:
        summary: JSON-ready facts: "name", "data", "model", "evaluation", "history", "features", "command", "versions".
        pictures: data URLs: "samples", "real", "neighbours" (or empty), and "stages", pairs of step and URL.
    """
    template = page_templates().get_template("generation.html")
    return template.render(
        s=summary, e=summary["evaluation"], p=pictures, charts=_charts(summary), said=verdict(summary["evaluation"])
    )


def write_generation_report(summary: Mapping[str, Any], pictures: Mapping[str, Any], path: str | Path) -> Path:
    """Write the page to ``path``."""
    return write_page(render_generation_report(summary, pictures), path)
