"""The signals that ask a command to end, beside that of Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

#: What `kill` sends, and what a terminal or a session sends that ends.
_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class Ended(BaseException):
    """The command was asked to end. No Exception: whoever foresees errors must not go on."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let TERM and HUP end the block as Ctrl-C does, by Ended. One that is ignored, as by nohup, stays so."""

    def end(number: int, _: object) -> None:
        raise Ended(number)

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
