"""An Excel workbook: the rows in one sheet; the disclaimer and the head of the audit log in another."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from db.errors import PneumoscreenError
from scheduler.disclaimer import DISCLAIMER
from scheduler.exports.columns import Kind
from scheduler.exports.noted_heads import AUDIT_HEAD
from scheduler.exports.target import DIGITS, Cells, Target

if TYPE_CHECKING:
    from openpyxl import Workbook

#: Rows of a sheet, without the one of the names (ECMA-376 leaves the number open; this is Excel's).
LONGEST = 1_048_575

#: Characters that XML 1.0 cannot hold (section 2.2).
_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

#: Characters with which text may begin that Excel, or the library that writes the file, takes for a formula
#: or an error.
_NOT_PLAIN = ("=", "+", "-", "@", "#", "\t", "\r", "\n")

#: Widths of columns, in characters.
_WIDTHS = {Kind.TEXT: 22, Kind.INTEGER: 10, Kind.PROBABILITY: 14}


class SheetTooLong(PneumoscreenError):
    """A sheet of Excel holds 1,048,575 rows at most. Write the results to a .parquet or .csv file instead."""

    code = "sheet-too-long"


def write(rows: Iterator[Cells], target: Target) -> int:
    """Write a workbook; return the number of rows. Raises SheetTooLong.

    Rows go through a private file in the folder for temporary files, which is removed at the end.
    """
    from openpyxl import Workbook

    if target.rows > LONGEST:
        raise SheetTooLong
    workbook = Workbook(write_only=True)
    workbook.properties.creator = "pneumoscreen"
    try:
        count = _write_rows(workbook, rows, target)
        _write_about(workbook, target)
        workbook.save(target.file)
    finally:
        for sheet in workbook.worksheets:
            _remove_temporary(sheet)
    return count


def _remove_temporary(sheet: Any) -> None:
    """Remove a sheet's temporary file; the library keeps that of an unsaved one until the process ends."""
    if not sheet.closed:
        with suppress(OSError, ValueError, StopIteration):  # the file may have had no room
            sheet.close()
    if sheet._writer is not None:
        Path(sheet._writer.out).unlink(missing_ok=True)


def _write_rows(workbook: Workbook, rows: Iterator[Cells], target: Target) -> int:
    from openpyxl.utils import get_column_letter

    sheet = workbook.create_sheet("results")
    sheet.freeze_panes = "A2"
    for number, column in enumerate(target.columns, start=1):
        sheet.column_dimensions[get_column_letter(number)].width = _WIDTHS[column.kind]
    sheet.append([_cell(sheet, name, bold=True) for name in target.names])
    count = 0
    for count, row in enumerate(rows, start=1):
        if count > LONGEST:
            raise SheetTooLong
        sheet.append([_cell(sheet, cell) for cell in row])
    return count


def _write_about(workbook: Workbook, target: Target) -> None:
    sheet = workbook.create_sheet("about")
    sheet.append([DISCLAIMER])
    if target.audit_head is not None:
        sheet.append([f"{AUDIT_HEAD}: {target.audit_head}"])


def _cell(sheet: Any, value: str | int | float | None, *, bold: bool = False) -> Any:
    """Return a cell or a value that becomes one. Text is text, whatever it begins with."""
    from openpyxl.cell import WriteOnlyCell

    if isinstance(value, str):
        value = _NOT_XML.sub("\ufffd", value)
        if not bold and not value.startswith(_NOT_PLAIN):
            return value
        cell = WriteOnlyCell(sheet, value)
        cell.data_type = "s"
        if bold:
            from openpyxl.styles import Font

            cell.font = Font(bold=True)
        else:
            # It stays text if somebody edits the cell.
            cell.number_format = "@"
        return cell
    if isinstance(value, float):
        cell = WriteOnlyCell(sheet, value)
        cell.number_format = f"0.{'0' * DIGITS}"
        return cell
    return value
