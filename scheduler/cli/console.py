"""Output to the terminal: tables and sentences, JSON, progress and warnings."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console

#: Categories of invisible characters that a terminal obeys: controls, formats, line separators.
_OBEYED = ("Cc", "Cf", "Zl", "Zp")

#: Tables and sentences for people. In a file or a pipe a sentence is one line, so that it can be found.
console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
#: Progress and warnings: standard error, so that `--json` can be piped.
errors = Console(highlight=False, stderr=True, soft_wrap=not sys.stderr.isatty())


def print_json(value: Any) -> None:
    """Print one JSON document."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def say(text: str) -> None:
    """Print a sentence that may hold a name; markup in the name is printed as it is."""
    console.print(printable(text), markup=False)


def print_table(
    columns: Iterable[str], rows: Iterable[Iterable[object]], *, title: str | None = None
) -> None:
    """Print a table; None is an empty cell. Markup in a file's name or a card is printed as it is.

    No word is broken. A terminal that is too narrow for the table gets a block of lines for each row. A file
    or a pipe gets one line for each row.
    """
    from scheduler.cli.table import fitted, plain_lines, records

    head = tuple(columns)
    cells = [["" if cell is None else printable(str(cell)) for cell in row] for row in rows]
    if console.is_terminal and (table := fitted(head, cells, console.width, title=title)):
        console.print(table)
        return
    if title:
        say(title)
    lines = records(head, cells, console.width) if console.is_terminal else plain_lines(head, cells)
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def print_facts(facts: Mapping[str, object]) -> None:
    """Print lines of a name and a value; a fact that is None is left out. In a pipe each is one line."""
    from scheduler.cli.table import records

    known = {name: printable(str(value)) for name, value in facts.items() if value is not None}
    width = console.width if console.is_terminal else sys.maxsize
    for line in records(tuple(known), [tuple(known.values())], width):
        console.print(line, markup=False, soft_wrap=True)


def print_audit_head(digest: str | None) -> None:
    """Print the newest digest of the audit log, which the user keeps with the file that was written."""
    if digest is not None:
        errors.print(f"audit head: {digest}", soft_wrap=True)


def printable(text: str) -> str:
    """Return text without characters that set a terminal's colours, title, clipboard or writing direction.

    Bytes of a file's name that are no text become question marks.
    """
    kept = (one for one in text if one == "\n" or unicodedata.category(one) not in _OBEYED)
    return "".join(kept).encode("utf-8", "replace").decode()
