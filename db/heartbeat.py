"""Keeps a lease while its holder works."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import TracebackType

from sqlalchemy.orm import Session

from db.database_errors import DatabaseFailed
from db.engine import Database
from db.jobs.claims import LeaseLost

log = logging.getLogger(__name__)

#: Heartbeats in the time of a lease: one late or lost heartbeat is no reason to lose a batch.
BEATS_PER_LEASE = 5

#: Seconds after which a heartbeat that failed is tried again.
_SOON_SECONDS = 1.0


class Heartbeat:
    """Puts off the end of a lease from a thread of its own, for as long as the block runs."""

    def __init__(
        self, database: Database, name: str, lease_seconds: float, keep: Callable[[Session], None]
    ) -> None:
        """`keep` puts the lease off, or raises LeaseLost."""
        self._database = database
        self._name = name
        self._lease_seconds = lease_seconds
        self._keep = keep
        self._stop = threading.Event()
        self._lost = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"lease of {name}", daemon=True)

    def lose(self) -> None:
        """Give the lease up: the next `check` raises LeaseLost."""
        self._lost.set()

    def check(self) -> None:
        """Raise LeaseLost where the lease is known to be lost, so that no more work goes into the batch."""
        if self.is_lost():
            raise LeaseLost

    def is_lost(self) -> bool:
        """Whether the lease is known to be lost."""
        return self._lost.is_set()

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        between = self._lease_seconds / BEATS_PER_LEASE
        pause = between
        while not self._stop.wait(pause):
            pause = between
            try:
                self._beat()
            except LeaseLost:
                self._lost.set()
                return
            except DatabaseFailed as error:
                # Soon again: a database that comes back is to hear of us before it is swept.
                log.warning("heartbeat of %s failed: %s", self._name, error.code)
                pause = min(between, _SOON_SECONDS)

    def _beat(self) -> None:
        with self._database.write() as session:
            self._keep(session)
