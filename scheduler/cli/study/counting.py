"""The count of a source's files, shown while they are listed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from db.text import counted
from scheduler.cli.progress_line import Part, ProgressLine

if TYPE_CHECKING:
    from rich.console import Console

    from worker.files.opener import Entry


class Count:
    """Counts the files of a walk, as one of its `Known`: it leaves none out."""

    def __init__(self, line: ProgressLine) -> None:
        self._line, self._files = line, 0

    def unknown(self, entries: list[Entry]) -> list[Entry]:
        """Count these entries and return all of them."""
        self._files += len(entries)
        self._line.show([Part(f"{counted(self._files, 'file')} listed ...")])
        return entries

    def note_no_image(self, entry: Entry) -> None:
        """Do nothing: the file was counted when it was listed."""


@contextmanager
def counting(console: Console) -> Iterator[Count]:
    """Show the count during the block."""
    with ProgressLine(console) as line:
        yield Count(line)
