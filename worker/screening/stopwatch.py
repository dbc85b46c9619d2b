"""A stopwatch that adds up seconds."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


class Stopwatch:
    """Adds up the duration of `with` blocks; one thread uses it."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._start = 0.0

    def __enter__(self) -> None:
        self._start = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.monotonic() - self._start

    def each(self, values: Iterable[T]) -> Iterator[T]:
        """Yield values, and add up the time that the iterable takes to produce them."""
        iterator = iter(values)
        while True:
            with self:
                try:
                    value = next(iterator)
                except StopIteration:
                    return
            yield value
