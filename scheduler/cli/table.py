"""Tables of text: in a terminal fitted to its width, in a pipe one line for each row."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

Row = Sequence[str]


def plain_lines(head: Row, rows: Sequence[Row]) -> Iterator[str]:
    """Yield one line for the head and each row, however long it gets, so that `grep` finds whole rows."""
    lines = [[" ".join(cell.split()) for cell in row] for row in (head, *rows)]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(line, widths, strict=True))
        yield "  ".join(padded).rstrip()


def fitted(head: Row, rows: Sequence[Row], width: int, *, title: str | None = None) -> Table | None:
    """Return a table that breaks lines only between words, or None if the width is too small for that.

    Columns are two spaces apart, or one if the table would not fit otherwise: the ten of `status` have to fit
    into 80 characters.
    """
    columns = list(zip(head, *rows, strict=True))
    padding, widths = 1, _widths(columns, width - 2 * len(columns))
    if widths is None:
        padding, widths = 0, _widths(columns, width - len(columns) - 1)
    if widths is None:
        return None
    table = Table(
        title=title,
        title_justify="left",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, padding, 0, 0),
        pad_edge=False,
    )
    for name, wide in zip(head, widths, strict=True):
        table.add_column(name, width=wide, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _widths(columns: Sequence[Row], space: int) -> list[int] | None:
    """Return the width of each column: its longest word, and a share of the space that is left."""
    longest = [_longest(cell for text in column for cell in text.split()) for column in columns]
    whole = [_longest(line for text in column for line in text.splitlines()) for column in columns]
    spare = space - sum(longest)
    if spare < 0:
        return None
    wanted = [long - short for long, short in zip(whole, longest, strict=True)]
    if sum(wanted) <= spare:
        return whole
    return [short + spare * more // sum(wanted) for short, more in zip(longest, wanted, strict=True)]


def _longest(texts: Iterator[str]) -> int:
    # A column of width 0 would be left out.
    return max(map(cell_len, texts), default=1)


def records(head: Row, rows: Sequence[Row], width: int) -> Iterator[Text]:
    """Yield each row as lines of a column's name and its value; empty values are left out."""
    indent = max(map(cell_len, head)) + 2
    for row in rows:
        for name, value in zip(head, row, strict=True):
            wrapped = [
                line
                for part in value.splitlines()
                for line in textwrap.wrap(
                    part, max(width - indent, 20), break_long_words=False, break_on_hyphens=False
                )
            ]
            for number, line in enumerate(wrapped):
                label = name if number == 0 else ""
                yield Text.assemble((label.ljust(indent), "bold"), line)
        yield Text()
