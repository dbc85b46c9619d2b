"""The report's page: one HTML file that refers to no other files."""

from __future__ import annotations

import json
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from db.atomic import write_whole
from db.text import counted
from training.evaluation.paired import p_text
from training.report.findings import Findings
from training.report.panels import overview, panels
from training.report.sentences import difference_text, fitting, measure_text, patients, summary

_TEMPLATE = Path(__file__).with_name("page.html.jinja")


def write_report(findings: Findings, folder: Path) -> Path:
    """Write `report.json` and `report.html` into a folder, each whole or not at all; return the page."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "report.json", json.dumps(findings, indent=1) + "\n")
    return _write(folder / "report.html", page(findings))


def _write(file: Path, text: str) -> Path:
    with write_whole(file) as out:
        out.write(text.encode())
    return file


def page(findings: Findings) -> str:
    """Return the page as HTML."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "measure": measure_text,
        "difference": difference_text,
        "counted": counted,
        "p": lambda value: p_text(value).removeprefix("p ").removeprefix("= "),
    }
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        r=findings,
        summary=summary(findings),
        fitting=fitting(findings),
        patients=patients(findings["data"]["told_by"]),
        overview=overview(findings),
        panels=[panels(one, index) for index, one in enumerate(findings["backbones"])],
    )
