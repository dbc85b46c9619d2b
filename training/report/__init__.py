"""The report of a comparison: `report.json`, and `report.html` for people."""

from training.report.findings import build_report
from training.report.page import write_report

__all__ = ["build_report", "write_report"]
