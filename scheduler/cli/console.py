"""Output to the terminal: tables and sentences, JSON, progress and warnings."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Iterable
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

#: Categories of invisible characters that a terminal obeys: controls, formats, line separators.
_OBEYED = ("Cc", "Cf", "Zl", "Zp")

#: Tables and sentences for people.
console = Console(highlight=False)
#: Progress and warnings: standard error, so that `--json` can be piped.
errors = Console(highlight=False, stderr=True)


def print_json(value: Any) -> None:
    """Print one JSON document."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def say(text: str) -> None:
    """Print a sentence that may hold a name; markup in the name is printed as it is."""
    console.print(printable(text), markup=False)


def print_table(
    columns: Iterable[str], rows: Iterable[Iterable[object]], *, title: str | None = None
) -> None:
    """Print a table; None is an empty cell. Markup in a file's name or a card is printed as it is."""
    from rich.text import Text

    table = Table(
        title=title,
        title_justify="left",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        # Ten columns of counts must fit into 80 characters.
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if cell is None else printable(str(cell))) for cell in row))
    console.print(table)


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
