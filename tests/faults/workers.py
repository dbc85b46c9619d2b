"""Screening workers that a test starts beside the embedded stack."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from deploy.stack import Stack

_ROOT = Path(__file__).parent.parent.parent
_numbers = count(1)


class OwnWorker:
    """The process of a screening worker."""

    def __init__(self, fault: str, slowly: float) -> None:
        name = f"screen-{next(_numbers)}"
        self._log = Stack().logs / f"{name}.log"
        command = [sys.executable, "-m", "celery", "-A", "tests.faults.broken_worker", "worker"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "-Q", "screen", "-n", f"{name}@%h", "--pool=threads", "--concurrency=2",
                 "--loglevel=INFO", "--without-gossip", "--without-mingle"],
                cwd=_ROOT, env=os.environ | {"FAULT": fault, "SLOWLY": str(slowly)}, stdout=log, stderr=log,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    def log(self) -> str:
        """Return what it has logged."""
        return self._log.read_text()

    def dies(self) -> bool:
        """Wait until the worker ends by itself; tell whether its fault killed it."""
        return self._process.wait(120) == -signal.SIGKILL

    def ends(self) -> None:
        """Wait until the worker ends by itself."""
        self._process.wait(120)

    def tell(self, *numbers: signal.Signals) -> None:
        """Send signals, and wait until the worker ends."""
        for number in numbers:
            self._process.send_signal(number)
            time.sleep(0.2)
        self._process.wait(60)

    def end(self) -> None:
        """Kill the worker."""
        self._process.kill()
        self._process.wait()


@contextmanager
def own_worker(fault: str = "", *, slowly: float = 0) -> Iterator[OwnWorker]:
    """Run a screening worker for the time of the block, with a fault of `broken_worker`."""
    worker = OwnWorker(fault, slowly)
    try:
        yield worker
    finally:
        worker.end()
