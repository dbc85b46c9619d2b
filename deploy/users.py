"""Who uses the embedded stack of a data directory, by locks that the kernel gives up with their process.

`lock` is held while the stack is started or stopped. `users` is locked, shared, by each command that needs
the stack, for as long as it does. `kept` exists if the stack is to go on without users: `up` makes it.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from db.errors import PneumoscreenError

_POLL_SECONDS = 0.1


class StackBusy(PneumoscreenError):
    """Another command is starting or stopping the embedded stack, and does not end. Try again later."""

    code = "stack-busy"


class Users:
    """The users of one stack."""

    def __init__(self, run: Path) -> None:
        self._lock = run / "lock"
        self._users = run / "users"
        self._kept = run / "kept"

    @contextmanager
    def alone(self, seconds: float) -> Iterator[None]:
        """Be the only one to start or stop the stack. Raises StackBusy after `seconds`."""
        file = _open(self._lock)
        try:
            deadline = time.monotonic() + seconds
            while not _locked(file, fcntl.LOCK_EX):
                if time.monotonic() >= deadline:
                    raise StackBusy
                time.sleep(_POLL_SECONDS)
            yield
        finally:
            os.close(file)

    def enter(self) -> int:
        """Become a user; return the file to close, which the end of the process closes, too."""
        file = _open(self._users)
        try:
            # Whoever holds it alone looks for users, and is done at once.
            fcntl.flock(file, fcntl.LOCK_SH)
        except BaseException:
            os.close(file)
            raise
        return file

    def are_there(self) -> bool:
        """Tell whether any process uses the stack."""
        file = _open(self._users)
        try:
            return not _locked(file, fcntl.LOCK_EX)
        finally:
            os.close(file)

    def is_wanted(self) -> bool:
        """Tell whether the stack is to go on."""
        return self._kept.exists() or self.are_there()

    def keep(self) -> None:
        """Let the stack go on when nobody uses it."""
        os.close(_open(self._kept))

    def no_longer_keep(self) -> None:
        """Let the stack end with its last user."""
        with suppress(FileNotFoundError):
            self._kept.unlink()


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)


def _locked(file: int, how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
