"""Keeps a lease while a batch is under way."""

from __future__ import annotations

import logging
import threading
from types import TracebackType

from sqlalchemy.exc import SQLAlchemyError

from db.batches import Claim, LeaseLost, keep
from db.engine import Database

log = logging.getLogger(__name__)

#: Heartbeats in the time of a lease: one late or lost heartbeat is no reason to lose a batch.
BEATS_PER_LEASE = 5


class Heartbeat:
    """Puts off the end of a lease from a thread of its own, for as long as the block runs."""

    def __init__(self, database: Database, claim: Claim, lease_seconds: float) -> None:
        self._database = database
        self._claim = claim
        self._lease_seconds = lease_seconds
        self._stop = threading.Event()
        self._lost = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"lease-{claim.batch_id}", daemon=True)

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
                log.warning("heartbeat of batch %d failed: %s", self._claim.batch_id, type(error).__name__)

    def _beat(self) -> None:
        with self._database.write() as session:
            keep(session, self._claim.batch_id, self._claim.token, lease_seconds=self._lease_seconds)
