"""Comma-separated values, which have no place for anything but rows."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import astuple

from db.queries.results import ResultRow
from scheduler.exports.target import COLUMNS, Target

#: Characters that begin a formula in a spreadsheet.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def write(rows: Iterator[ResultRow], target: Target) -> int:
    """Write a table with a header; return the number of rows."""
    count = 0
    with target.as_text() as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for count, row in enumerate(rows, start=1):  # noqa: B007  (the last count is the answer)
            writer.writerow(map(_as_text, astuple(row)))
    return count


def _as_text(cell: object) -> object:
    """Return a cell that no spreadsheet takes for a formula (OWASP, CSV injection). Numbers stay numbers."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell
