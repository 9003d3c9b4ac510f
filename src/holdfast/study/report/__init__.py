"""What people read after a study: a page that opens offline, and the same table in the terminal."""

from __future__ import annotations

from holdfast.study.report.page import render_report, write_report
from holdfast.study.report.table import print_summary, setting_tables

__all__ = ["print_summary", "render_report", "setting_tables", "write_report"]
