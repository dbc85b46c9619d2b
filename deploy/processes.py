"""The processes of a data directory's stack, found by a mark in their environment, without supervisord."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from db.settings import ENV_PREFIX

#: Names the data directory in the environment of supervisord, and so of every process that it starts.
MARK = ENV_PREFIX + "STACK"

SUPERVISORD = "supervisord"
BROKER = "broker"
#: It is killed: it holds nothing and may lose a TERM, as `programs` says.
BEAT = "beat"

_PROC = Path("/proc")
_POLL_SECONDS = 0.1
#: Seconds within which a process ends after KILL, unless it waits for a disk.
_KILL_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Marked:
    """A process that belongs to the stack."""

    name: str
    pid: int


def marked(home: str) -> list[Marked]:
    """Return the processes of the stack of a data directory; none if this system has no /proc."""
    if not _PROC.is_dir():
        return []
    mark = f"{MARK}={home}".encode()
    found = []
    for folder in _PROC.iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            # The process ends meanwhile, or we may not read it.
            with suppress(OSError):
                if _is_ours(folder) and mark in (environment := _environment(folder)):
                    found.append(Marked(_name(environment), int(folder.name)))
    return sorted(found, key=lambda one: one.pid)


def _is_ours(folder: Path) -> bool:
    """Tell whether a process has our user and our root folder: one in a container may have the same paths."""
    return folder.stat().st_uid == os.geteuid() and (folder / "root").samefile("/")


def _environment(folder: Path) -> list[bytes]:
    return (folder / "environ").read_bytes().split(b"\0")


def _name(environment: list[bytes]) -> str:
    given = b"SUPERVISOR_PROCESS_NAME="
    names = [one.removeprefix(given).decode() for one in environment if one.startswith(given)]
    return names[0] if names else SUPERVISORD


def stop_marked(home: str, seconds: float) -> list[Marked]:
    """Stop the remaining processes of a stack, supervisord first, the broker last; return those found.

    Each gets TERM (beat KILL), and KILL after `seconds`.
    """
    found = marked(home)
    _stop(home, lambda one: one.name == SUPERVISORD, seconds)
    _stop(home, lambda one: one.name != BROKER, seconds)
    _stop(home, lambda _: True, seconds)
    return found


def _stop(home: str, which: Callable[[Marked], bool], seconds: float) -> None:
    told: set[int] = set()
    deadline = time.monotonic() + seconds
    while left := [one for one in marked(home) if which(one)]:
        is_over = time.monotonic() > deadline
        if time.monotonic() > deadline + _KILL_SECONDS:
            return
        for one in left:
            if is_over or one.pid not in told:
                with suppress(ProcessLookupError):
                    os.kill(one.pid, signal.SIGKILL if is_over or one.name == BEAT else signal.SIGTERM)
                told.add(one.pid)
        time.sleep(_POLL_SECONDS)
