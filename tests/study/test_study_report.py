"""The report is one file that needs no network and says what the summary says."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from fakes import fake, make_sites, spec_of
from rich.console import Console

from holdfast.study.report import print_summary, render_report
from holdfast.study.report.charts import Bar, forest, nice_ticks
from holdfast.study.runner import run_study

HOSTILE = '<script>alert("x")</script>'


@pytest.fixture(scope="module")
def summary(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    methods = [fake("NearestMean", "erm"), fake("NearestMean", HOSTILE, features=1), fake("Broken")]
    spec = spec_of(folder, methods, executor={"workers": 0})
    return run_study(spec, folder / "run", data={"data": make_sites()}, ship=False).summary


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.links += [v for k, v in attrs if k in ("src", "href", "action", "xlink:href", "data") and v]
        if tag not in ("meta", "br", "link", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.links += [v for k, v in attrs if k in ("src", "href") and v]

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def test_the_page_is_well_formed_and_points_nowhere(summary):
    text = render_report(summary)
    page = _Page()
    page.feed(text)
    assert page.wrong == []
    assert page.open == []
    assert all(link.startswith("#") for link in page.links)
    assert not re.search(r"https?://|url\(|@import", text)


def test_names_from_the_outside_are_never_markup(summary):
    text = render_report(summary)
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_everything_the_summary_found_is_on_the_page(summary):
    text = render_report(summary)
    (setting,) = summary["settings"]
    for row in setting["methods"]:
        if "average" in row:
            for e in setting["held_out"]:
                a = row["environments"][e]["accuracy"]
                assert f'<span class="num">{a["mean"]:.3f}</span><span class="ci">{a["low"]:.3f} to' in text
    assert "flux capacitor" in text
    assert setting["fingerprint"] in text
    assert "seeds:" in text


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_terminal_table_fits_its_width_and_shows_every_environment(summary, width):
    console = Console(file=io.StringIO(), width=width)
    print_summary(summary, console)
    text = console.file.getvalue()
    assert all(len(line) <= width for line in text.splitlines())
    assert all(e in text for e in summary["settings"][0]["held_out"])


def test_an_unfinished_study_has_a_report_too(summary):
    fresh = dict(summary) | {"cells": {"planned": 9, "done": 0, "failed": 0, "missing": 9}}
    empty = [{"method": "erm", "class": "x", "about": "", "failed": 0, "seeds": []}]
    fresh["settings"] = [dict(summary["settings"][0]) | {"methods": empty, "verdict": None, "failures": []}]
    text = render_report(fresh)
    assert "9 not run yet" in text
    assert "No method finished" in text


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.13, 0.52), (-0.002, 0.001), (0.7, 0.7001), (-3.0, 250.0)])
def test_ticks_lie_inside_and_are_evenly_spaced(low, high):
    ticks = nice_ticks(low, high, 5)
    assert 2 <= len(ticks) <= 9
    assert all(low - 1e-9 <= t <= high + 1e-9 for t in ticks)
    steps = {round(b - a, 9) for a, b in pairwise(ticks)}
    assert len(steps) == 1


def test_a_dot_lies_inside_its_whisker_in_the_drawing():
    svg = forest("t", [Bar("a", 0.5, 0.4, 0.7), Bar("b", 0.1, 0.05, 0.2)], axis="x")
    lines = re.findall(r'x1="([\d.]+)" x2="([\d.]+)" y1="[\d.]+" y2="[\d.]+" class="whisker', svg)
    whiskers = [tuple(map(float, pair)) for pair in lines]
    dots = list(map(float, re.findall(r'cx="([\d.]+)"', svg)))
    assert len(whiskers) == len(dots) == 2
    assert all(a < x < b for (a, b), x in zip(whiskers, dots))
