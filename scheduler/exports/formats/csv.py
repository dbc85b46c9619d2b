"""Comma-separated values, which have no place for anything but rows."""

from __future__ import annotations

import csv
from collections.abc import Iterator

from scheduler.exports.target import DIGITS, Cells, Target

#: Characters that begin a formula in a spreadsheet.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def write(rows: Iterator[Cells], target: Target) -> int:
    """Write a table with a header; return the number of rows.

    It begins with a byte order mark: without one, Excel does not read UTF-8.
    """
    count = 0
    with target.as_text("utf-8-sig") as file:
        writer = csv.writer(file)
        writer.writerow(target.names)
        for count, row in enumerate(rows, start=1):  # noqa: B007  (the last count is the answer)
            writer.writerow(map(_as_text, row))
    return count


def _as_text(cell: str | int | float | None) -> str | int | None:
    """Return a cell that no spreadsheet takes for a formula (OWASP, CSV injection). Numbers stay numbers."""
    if isinstance(cell, float):
        return f"{cell:.{DIGITS}f}"
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell
