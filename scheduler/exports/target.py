"""The file that results are written to, and what a format does with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import TextIOWrapper
from typing import BinaryIO, Protocol

from scheduler.exports.columns import Column

#: The value of each column in one row of the table; None is an empty cell.
Cells = tuple[str | int | float | None, ...]

#: Digits after the decimal point of a probability in text.
DIGITS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """An open file, and what a format writes into it beside the rows."""

    file: BinaryIO
    columns: tuple[Column, ...]
    #: About how many rows will come: images may be added meanwhile.
    rows: int
    #: The newest digest of the audit log, for formats that have a place for it.
    audit_head: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(column.name for column in self.columns)

    @contextmanager
    def as_text(self, encoding: str = "utf-8") -> Iterator[TextIOWrapper]:
        """Write text, and leave the file open."""
        file = TextIOWrapper(self.file, newline="", encoding=encoding)
        try:
            yield file
        finally:
            file.detach()


class Format(Protocol):
    """A module of `scheduler.exports.formats`."""

    def write(self, rows: Iterator[Cells], target: Target) -> int:
        """Write the rows in their order, and return how many there were."""
        ...
