"""One line of progress: redrawn in a terminal, printed once a minute into a file or a pipe."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.live import Live
from rich.text import Text

from scheduler.local_time import local_time

if TYPE_CHECKING:
    from rich.console import Console

#: Seconds between two lines in a file: a night's log stays readable.
_LINE_SECONDS = 60.0
_REDRAWN_PER_SECOND = 4
#: Width of the bar in characters. A bar that is narrower than the smallest says nothing.
_SMALLEST_BAR, _LARGEST_BAR = 10, 30


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the line."""

    text: str
    #: The parts with the highest numbers are left out first if the line is too long.
    rank: int = 0
    style: str = ""


class ProgressLine:
    """A line of progress on a console, shown while the block lasts."""

    def __init__(
        self, console: Console, *, stays: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Leave the last state in the terminal or the file if it `stays`."""
        self._console, self._clock, self._stays = console, clock, stays
        self._parts: Sequence[Part] = ()
        self._printed: Sequence[Part] = ()
        self._done: float | None = None
        self._printed_at = clock()
        self._live = Live(
            console=console,
            get_renderable=self._drawn,
            refresh_per_second=_REDRAWN_PER_SECOND,
            transient=not stays,
        )

    def __enter__(self) -> Self:
        """Begin to draw."""
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the drawing."""
        if self._console.is_terminal:
            self._live.stop()
        elif self._stays and self._parts != self._printed:
            self._print()

    def show(self, parts: Sequence[Part], *, done: float | None = None) -> None:
        """Show these parts, in their order, and a bar if `done`, from 0 to 1, is known."""
        self._parts, self._done = parts, done
        if not self._console.is_terminal and self._clock() - self._printed_at >= _LINE_SECONDS:
            self._print()

    def _print(self) -> None:
        self._printed_at, self._printed = self._clock(), self._parts
        said = ", ".join(part.text for part in self._parts)
        self._console.print(f"{local_time(time.time())}  {said}", markup=False, soft_wrap=True)

    def _drawn(self) -> Text:
        width = self._console.width - 1
        parts = _fitting(self._parts, width)
        line = Text("  ").join(Text(part.text, style=part.style) for part in parts)
        space = min(width - line.cell_len - 1, _LARGEST_BAR)
        if self._done is not None and space >= _SMALLEST_BAR:
            full = round(self._done * space)
            line = Text.assemble(("━" * full, "green"), ("━" * (space - full), "dim"), " ", line)
        line.truncate(width, overflow="ellipsis")
        return line


def _fitting(parts: Sequence[Part], width: int) -> list[Part]:
    """Return the parts that fit into one line."""
    kept = list(parts)
    while len(kept) > 1 and sum(len(part.text) + 2 for part in kept) - 2 > width:
        kept.remove(max(kept, key=lambda part: part.rank))
    return kept
