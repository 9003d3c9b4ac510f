"""A heat map is well-formed, says its numbers, and orders its colours."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from holdfast.core.heat_map import heat_map

SVG = "{http://www.w3.org/2000/svg}"


def _brightness(fill: str) -> float:
    r, g, b = (int(fill[i : i + 2], 16) for i in (1, 3, 5))
    return 0.3 * r + 0.59 * g + 0.11 * b


def test_every_cell_is_drawn_named_and_brighter_where_the_number_is_larger():
    values = np.array([[0.1, 0.4, 0.2], [0.9, 0.6, 0.8]])
    tree = ElementTree.fromstring(
        heat_map(values, ["a<b", "c"], [10, 90, 300], title='by "block" & time', row_axis="block", column_axis="t")
    )
    cells = tree.findall(f"{SVG}rect")
    assert [c.find(f"{SVG}title").text for c in cells][:2] == ["a<b, 10: 0.100", "a<b, 90: 0.400"]
    order = np.argsort(values.ravel())
    assert (np.diff([_brightness(cells[i].get("fill")) for i in order]) > 0).all()
    assert tree.get("aria-label") == 'by "block" & time'
    assert {"block", "t", "a<b", "c", "300", "0.800"} <= {t.text for t in tree.findall(f"{SVG}text")}


def test_missing_numbers_leave_their_cell_empty_and_one_value_is_drawn():
    picture = heat_map([[np.nan, 1.0]], ["a"], ["x", "y"], title="one")
    assert picture.count("<rect") == 1
    assert heat_map([[np.nan]], ["a"], ["x"], title="none").count("<rect") == 0


def test_the_mark_frames_its_cell():
    tree = ElementTree.fromstring(heat_map([[0, 1], [2, 3]], "ab", "xy", title="m", mark=(1, 0)))
    *cells, frame = tree.findall(f"{SVG}rect")
    assert float(frame.get("x")) == pytest.approx(float(cells[2].get("x")) - 1)
    assert float(frame.get("y")) == pytest.approx(float(cells[2].get("y")) - 1)
    assert frame.get("fill") == "none"


def test_negative_numbers_have_a_minus_sign():
    assert "−0.25" in re.sub(r"<[^>]+>", " ", heat_map([[-0.25]], ["a"], ["b"], title="m", digits=2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: heat_map([[1.0]], ["a", "b"], ["x"], title="m"), "shape"),
        (lambda: heat_map([[]], ["a"], [], title="m"), "shape"),
        (lambda: heat_map([[1.0]], ["a"], ["x"], title="m", mark=(1, 0)), "mark"),
        (lambda: heat_map([[1.0]], ["a"], ["x"], title="m", digits=-1), "digits"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_names_wider_than_a_cell_are_turned_inside_the_picture():
    short, long = (heat_map([[0.0, 1.0]], ["a"], [name, "y"], title="m") for name in ("x", "a name of some length"))
    assert "rotate(-45" not in short
    assert long.count("rotate(-45") == 2
    sizes = [ElementTree.fromstring(picture).attrib["viewBox"].split() for picture in (short, long)]
    assert float(sizes[1][3]) > float(sizes[0][3]) + 80
