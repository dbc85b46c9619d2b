"""The file that results are written to, and what a format does with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from io import TextIOWrapper
from typing import BinaryIO, Protocol

from db.queries.results import ResultRow

COLUMNS = tuple(field.name for field in fields(ResultRow))


@dataclass(frozen=True, slots=True)
class Target:
    """An open file, and what a format writes into it beside the rows."""

    file: BinaryIO
    #: The newest digest of the audit log, for formats that have a place for it.
    audit_head: str | None = None

    @contextmanager
    def as_text(self) -> Iterator[TextIOWrapper]:
        """Write UTF-8 text, and leave the file open."""
        file = TextIOWrapper(self.file, newline="", encoding="utf-8")
        try:
            yield file
        finally:
            file.detach()


class Format(Protocol):
    """A module of `scheduler.exports.formats`."""

    def write(self, rows: Iterator[ResultRow], target: Target) -> int:
        """Write the rows in their order, and return how many there were."""
        ...
