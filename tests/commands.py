"""The command line, run as a process."""

from __future__ import annotations

import subprocess
import sys

#: The command `pneumoscreen` of this environment.
CLI = [sys.executable, "-m", "scheduler"]


def run(*arguments: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; check its exit code, and that it prints no traceback."""
    done = subprocess.run([*CLI, *arguments], capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == expect, f"{arguments} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stdout + done.stderr
    return done


def printed(*arguments: str, expect: int = 0) -> str:
    """Run a command to its end, and return what it prints, errors last."""
    done = run(*arguments, expect=expect)
    return done.stdout + done.stderr
