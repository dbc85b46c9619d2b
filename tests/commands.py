"""The command line, run as a process."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from io import TextIOWrapper
from multiprocessing.context import ForkServerContext
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import IO

#: The command `pneumoscreen` of this environment.
CLI = [sys.executable, "-m", "scheduler"]

#: Seconds that a command may take.
PATIENCE = 300


def run(
    *arguments: str,
    expect: int | None = 0,
    environment: Mapping[str, str] | None = None,
    patience: float = PATIENCE,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; check its exit code (None: any), and that it prints no traceback.

    It is a process of its own, with the folder and the environment of the test or a given environment.
    Raises TimeoutExpired after `patience` seconds.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = _server().Process(
            target=_command,
            args=(
                arguments,
                dict(environment or os.environ),
                str(Path.cwd()),
                DupFd(output.fileno()),
                DupFd(errors.fileno()),
            ),
        )
        process.start()
        process.join(patience)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(list(arguments), patience)
        done = subprocess.CompletedProcess(
            [*CLI, *arguments], process.exitcode, _content(output), _content(errors)
        )
    assert expect in (None, done.returncode), (
        f"{arguments} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done


def printed(*arguments: str, expect: int | None = 0) -> str:
    """Run a command to its end, and return what it prints, errors last."""
    done = run(*arguments, expect=expect)
    return done.stdout + done.stderr


def _server() -> ForkServerContext:
    """Return the context of the one process that has imported what commands import.

    Imports take most of the time of a short command. So each command runs in a copy of that process.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.imported"])
    return context


def _content(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="surrogateescape")


def _command(
    arguments: tuple[str, ...], environment: dict[str, str], folder: str, output: object, errors: object
) -> None:
    """Run in the copy: take on the place of `python -m scheduler`."""
    import scheduler.__main__ as entry

    os.dup2(output.detach(), 1)  # type: ignore[attr-defined]
    os.dup2(errors.detach(), 2)  # type: ignore[attr-defined]
    sys.stdout = TextIOWrapper(os.fdopen(1, "wb", closefd=False), encoding="utf-8")
    sys.stderr = TextIOWrapper(
        os.fdopen(2, "wb", closefd=False), encoding="utf-8", errors="backslashreplace", line_buffering=True
    )
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    os.chdir(folder)
    sys.argv = [str(entry.__file__), *arguments]
    sys.modules["__main__"] = entry
    try:
        entry.main()
    finally:
        # `multiprocessing` ends its processes without this.
        atexit._run_exitfuncs()
