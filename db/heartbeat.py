"""Keeps a lease while its holder works."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import TracebackType

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from db.engine import Database
from db.leases import LeaseLost

log = logging.getLogger(__name__)

#: Heartbeats in the time of a lease: one late or lost heartbeat is no reason to lose a batch.
BEATS_PER_LEASE = 5


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
        if self._lost.is_set():
            raise LeaseLost

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._lease_seconds / BEATS_PER_LEASE):
            try:
                self._beat()
            except LeaseLost:
                self._lost.set()
                return
            except SQLAlchemyError as error:
                # The next beat may get through; if none does, the lease ends as it should.
                log.warning("heartbeat of %s failed: %s", self._name, type(error).__name__)

    def _beat(self) -> None:
        with self._database.write() as session:
            self._keep(session)
