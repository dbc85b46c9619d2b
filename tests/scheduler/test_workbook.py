"""Results as an Excel workbook: text stays text, numbers stay numbers, and a second sheet says more."""

from __future__ import annotations

import re
import tempfile
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

import pytest
from openpyxl import load_workbook

from scheduler.disclaimer import DISCLAIMER
from scheduler.exports.columns import COLUMNS, Column, Kind
from scheduler.exports.formats import xlsx
from scheduler.exports.noted_heads import noted_heads
from scheduler.exports.target import Cells, Target

TWO = (COLUMNS[0], COLUMNS[6])
NAME, NUMBER = (column.name for column in TWO)


def write(
    out: Path,
    rows: Iterator[Cells] | list[Cells],
    *,
    columns: tuple[Column, ...] = TWO,
    expected: int = 1,
    audit_head: str | None = None,
) -> int:
    with out.open("wb") as file:
        target = Target(file=file, columns=columns, rows=expected, audit_head=audit_head)
        return xlsx.write(iter(rows), target)


#: Texts that a spreadsheet, or a library that writes one, takes for formulas, errors, numbers or dates.
TEXTS = [
    '=HYPERLINK("http://x")', "=1", "+1", "-1", "@SUM(A1)", "\t=1", "#N/A", "#REF!", "1", "1e5", "2026-05-01",
    "TRUE", " padded ", "ünïcode ✓ 胸部", "a\nb", "x" * 3_000,
]  # fmt: skip


def test_no_text_in_a_workbook_is_a_formula_and_numbers_are_numbers(tmp_path: Path) -> None:
    out = tmp_path / "r.xlsx"
    assert write(out, [(text, 0.1234567890123) for text in TEXTS]) == len(TEXTS)
    sheet = load_workbook(out)["results"]
    first, *rows = sheet.iter_rows()
    assert [cell.value for cell in first] == [NAME, NUMBER]
    assert [text.value for text, _ in rows] == TEXTS
    assert {(text.data_type, number.data_type) for text, number in rows} == {("s", "n")}
    assert {number.value for _, number in rows} == {0.1234567890123}
    assert {number.number_format for _, number in rows} == {"0.000000"}
    # These stay text if somebody edits the cell.
    assert {text.number_format for text, _ in rows if text.value[0] in "=+-@"} == {"@"}
    with zipfile.ZipFile(out) as workbook:
        for part in workbook.namelist():
            elements = ElementTree.fromstring(workbook.read(part)).iter()  # noqa: S314  (our own file)
            assert not [one for one in elements if re.fullmatch(r"(\{.*\})?f", one.tag)], part


def test_characters_that_a_workbook_cannot_hold_are_replaced(tmp_path: Path) -> None:
    write(tmp_path / "r.xlsx", [("a\x00\x0b\x1f\ufffe\x7fb", None)])
    ((text, number),) = load_workbook(tmp_path / "r.xlsx")["results"].iter_rows(min_row=2, values_only=True)
    assert (text, number) == ("a\ufffd\ufffd\ufffd\ufffd\x7fb", None)


def test_the_row_of_names_stays_in_view_and_the_disclaimer_is_in_a_second_sheet(tmp_path: Path) -> None:
    write(tmp_path / "r.xlsx", [("a", 1.0)], audit_head="0" * 64)
    workbook = load_workbook(tmp_path / "r.xlsx")
    assert workbook.sheetnames == ["results", "about"]
    assert workbook["results"].freeze_panes == "A2"
    assert [cell.value for cell in workbook["about"]["A"]] == [DISCLAIMER, f"audit_head: {'0' * 64}"]
    assert workbook.active.title == "results"


def test_the_audit_head_of_a_workbook_is_found_also_after_it_was_saved_again(tmp_path: Path) -> None:
    digest = "0123456789abcdef" * 4
    write(tmp_path / "r.xlsx", [("a", 1.0)], audit_head=digest)
    assert noted_heads(tmp_path / "r.xlsx") == {digest}
    # This library saves texts as Excel does: all in one place.
    load_workbook(tmp_path / "r.xlsx").save(tmp_path / "again.xlsx")
    assert noted_heads(tmp_path / "again.xlsx") == {digest}


def test_more_rows_than_excel_opens_are_refused_before_any_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> Iterator[Cells]:
        raise AssertionError("a row was read")
        yield ()

    with pytest.raises(xlsx.SheetTooLong, match=r"\.parquet or \.csv"):
        write(tmp_path / "r.xlsx", none(), expected=1_048_576)
    # If images are added meanwhile.
    monkeypatch.setattr(xlsx, "LONGEST", 2)
    with pytest.raises(xlsx.SheetTooLong):
        write(tmp_path / "r.xlsx", [("a", 1.0)] * 3)
    assert write(tmp_path / "r.xlsx", [("a", 1.0)] * 2, expected=2) == 2


def test_no_temporary_file_is_left_whether_writing_succeeds_or_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    seen: list[int] = []

    def rows(fails: bool) -> Iterator[Cells]:
        for number in range(2_000):
            yield (f"patient {number}", 0.5)
        seen.extend(file.stat().st_mode & 0o777 for file in folder.iterdir())
        if fails:
            raise OSError("the database is gone")

    assert write(tmp_path / "r.xlsx", rows(fails=False)) == 2_000
    with pytest.raises(OSError, match="gone"):
        write(tmp_path / "s.xlsx", rows(fails=True))
    assert seen == [0o600, 0o600]
    assert list(folder.iterdir()) == []


def test_pandas_reads_the_sheet_of_results_by_itself(tmp_path: Path) -> None:
    import pandas as pd

    integer = Column("image", Kind.INTEGER, "", "")
    write(tmp_path / "r.xlsx", [("a", 0.5, 7), ("b", None, 8)], columns=(*TWO, integer))
    table = pd.read_excel(BytesIO((tmp_path / "r.xlsx").read_bytes()))
    assert list(table.columns) == [NAME, NUMBER, "image"]
    assert table["image"].tolist() == [7, 8]
    assert table[NUMBER].dropna().tolist() == [0.5]
