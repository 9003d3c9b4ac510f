"""The examples of the documentation run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md"])


def python_blocks(page: Path) -> str:
    return "\n".join(re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S))


@pytest.mark.parametrize("page", [p for p in PAGES if python_blocks(p)], ids=lambda p: p.name)
def test_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = compile(python_blocks(page), str(page), "exec")
    exec(code, {"__name__": "__main__"})
    assert code.co_code


def test_every_topic_folder_has_a_page():
    folders = {p.parent.name for p in (ROOT / "src/holdfast").glob("*/__init__.py")} - {"cli"}
    assert folders <= {p.stem for p in (ROOT / "docs").glob("*.md")}
