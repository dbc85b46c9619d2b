"""The report of the benches itself."""

from __future__ import annotations

import json
from pathlib import Path

from tests.bench.figures import Figures


def test_figures_are_a_table_and_a_file_and_shares_a_drawing(tmp_path: Path) -> None:
    figures = Figures()
    figures.add("end to end", "ratio", 2.5, "times", goal=6)
    figures.add("end to end", "rate", 12345.6, "images/s")
    figures.add_shares("one image", {"start": 1.5, "forward pass": 0.25})
    assert "| end to end | ratio | 2.5 times       | 6    |" in figures.table()
    assert "|            | rate  | 12,346 images/s |      |" in figures.table()
    figures.write(tmp_path / "out")
    written = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert [one["value"] for one in written["figures"]] == [2.5, 12345.6]
    assert written["machine"]["cores"] >= 1
    drawing = (tmp_path / "out" / "shares.svg").read_text()
    assert drawing.count("<svg") == 1
