"""Dispatch: batches are cut in the job table first, then the broker's queues are notified."""

from __future__ import annotations

import logging
import math
import time

from db.audit.chain import seal
from db.database_errors import DatabaseFailed
from db.engine import Database
from db.jobs.batches import cohorts_to_dispatch, cut_batches
from db.jobs.ingests import expire_ingests
from db.jobs.notifications import Notified, count_waiting, mark_notified, rows_to_notify
from db.jobs.sweep import any_expired, expire_batches
from db.tables import Batch, TrainingRun
from db.training.runs import expire_runs
from db.upkeep.counters import fold
from db.upkeep.ended_batches import count_ended
from scheduler.settings import SchedulerSettings
from worker.broker.notify import Notifier, notify_queue

log = logging.getLogger(__name__)

#: Seconds after an outage of the job table in which no lease expires. A failed heartbeat is retried every
#: second, but a connection to a server that is gone may hang for ten seconds.
_GRACE_SECONDS = 12.0


def dispatch(database: Database, settings: SchedulerSettings, notifier: Notifier) -> int:
    """Cut pending images into batches and notify workers of unclaimed batches; return how many.

    Any number of calls may run at once.
    """
    with database.read() as session:
        cohort_ids = cohorts_to_dispatch(session)
    for cohort_id in cohort_ids:
        # One transaction for each cohort: a long list must not hold the write lock.
        with database.write() as session:
            cut_batches(
                session,
                cohort_id,
                batch_images=settings.batch_images,
                in_flight=settings.batches_in_flight,
            )
    return notify_waiting(database, Batch, notifier, again_seconds=settings.ring_again_seconds)


def dispatch_runs(database: Database, settings: SchedulerSettings, notifier: Notifier) -> int:
    """Send notifications for training runs that wait for a worker; return how many were sent."""
    return notify_waiting(database, TrainingRun, notifier, again_seconds=settings.ring_again_seconds)


def notify_waiting(database: Database, table: Notified, notifier: Notifier, *, again_seconds: float) -> int:
    """Send notifications for rows that wait for a worker and are due; return how many were sent."""
    with database.read() as session:
        due = rows_to_notify(session, table, again_seconds=again_seconds)
        waiting = count_waiting(session, table)
    notified = notify_queue(notifier, due, open_rows=waiting)
    if notified:
        with database.write() as session:
            mark_notified(session, table, notified)
    return len(notified)


class Sweeper:
    """Expires the leases of batches, training runs and ingests.

    After an outage of the job table, or a lock of another program on a batch, no lease expires for a while:
    no holder could renew its lease. Otherwise an outage would count against every running batch, as if an
    image in it killed workers.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._unavailable_at = -math.inf

    def sweep(self) -> int:
        """Sweep, chain new events of the audit log and add up counters.

        Return how many batches and runs lost their lease.
        """
        try:
            with self._database.write() as session:
                graceful = time.monotonic() - self._unavailable_at < _GRACE_SECONDS
                lost = 0
                if not graceful:
                    lost = expire_batches(session) + expire_runs(session)
                    expire_ingests(session)
                    if any_expired(session):
                        self._unavailable_at = time.monotonic()
        except DatabaseFailed:
            self._unavailable_at = time.monotonic()
            raise
        # A problem with the audit log alone does not stop holders from renewing their leases.
        with self._database.write() as session:
            seal(session)
        with self._database.write() as session:
            fold(session)
            count_ended(session)
        return lost
