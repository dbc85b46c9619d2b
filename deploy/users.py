"""The users of a data directory's embedded stack: file locks, which the kernel releases with their process.

`lock` is held while the stack is started or stopped. Each command that needs the stack holds a shared lock on
`users` meanwhile. `kept` exists if the stack is to run on without users: `up` makes it.
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
    """Another command is starting or stopping the embedded stack, and has not finished. Try again later."""

    code = "stack-busy"


class Users:
    """The users of one stack."""

    def __init__(self, run: Path) -> None:
        self._lock = run / "lock"
        self._users = run / "users"
        self._kept = run / "kept"

    @contextmanager
    def alone(self, seconds: float) -> Iterator[None]:
        """Hold the lock for starting and stopping the stack. Raises StackBusy after `seconds`."""
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
        """Become a user; return the file descriptor to close. The end of the process closes it, too."""
        file = _open(self._users)
        try:
            # An exclusive lock is held only by `are_there`, for a moment.
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
        """Tell whether the stack is to run on."""
        return self.is_kept() or self.are_there()

    def is_kept(self) -> bool:
        """Tell whether the stack is to run on without users."""
        return self._kept.exists()

    def keep(self) -> None:
        """Let the stack run on when nobody uses it."""
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
