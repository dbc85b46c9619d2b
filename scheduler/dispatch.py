"""Handing batches out: cut in the job table first, then ring the broker."""

from __future__ import annotations

import logging
import math
import time

from db.audit.chain import seal
from db.database_errors import DatabaseFailed
from db.engine import Database
from db.jobs.batches import batches_to_ring, cohorts_to_dispatch, count_queued, cut_batches, mark_rung
from db.jobs.claims import any_lapsed, expire
from db.jobs.ingests import expire_ingests
from db.training.runs import count_queued_runs, expire_runs, mark_runs_rung, runs_to_ring
from db.upkeep.counters import fold
from db.upkeep.ended_batches import count_ended
from scheduler.settings import SchedulerSettings
from worker.broker.notify import Bell, ring_for

log = logging.getLogger(__name__)

#: Seconds after the job table was away in which no lease ends. Heartbeats that fail are tried again every
#: second, but a connection to a server that is gone may hang for ten.
_GRACE_SECONDS = 12.0


def dispatch(database: Database, settings: SchedulerSettings, bell: Bell) -> int:
    """Cut what may be cut and ring for what nobody has come for; return how many batches were rung for.

    Any number of these may run at once.
    """
    with database.read() as session:
        cohort_ids = cohorts_to_dispatch(session)
    for cohort_id in cohort_ids:
        # One transaction each: a long list of cohorts must not hold the write lock.
        with database.write() as session:
            cut_batches(
                session,
                cohort_id,
                batch_images=settings.batch_images,
                in_flight=settings.batches_in_flight,
            )
    with database.read() as session:
        due = batches_to_ring(session, again_seconds=settings.ring_again_seconds)
        queued = count_queued(session)
    rung = ring_for(bell, due, open_rows=queued)
    if rung:
        with database.write() as session:
            mark_rung(session, rung)
    return len(rung)


def dispatch_runs(database: Database, settings: SchedulerSettings, bell: Bell) -> int:
    """Ring for training runs that wait for a worker; return how many."""
    with database.read() as session:
        due = runs_to_ring(session, again_seconds=settings.ring_again_seconds)
        queued = count_queued_runs(session)
    rung = ring_for(bell, due, open_rows=queued)
    if rung:
        with database.write() as session:
            mark_runs_rung(session, rung)
    return len(rung)


class Sweeper:
    """Takes batches, training runs and ingests away from those whose lease has ended.

    Not while the job table was just unavailable, or somebody else's lock was on a batch: nobody could keep a
    lease then. Who lives gets a moment to say so, or an outage would count against every batch under way, as
    an image that kills workers does.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._away_at = -math.inf

    def sweep(self) -> int:
        """Sweep, chain new events of the audit log and add up counters.

        Return how many batches and runs were taken away.
        """
        try:
            with self._database.write() as session:
                graceful = time.monotonic() - self._away_at < _GRACE_SECONDS
                lost = 0
                if not graceful:
                    lost = expire(session) + expire_runs(session)
                    expire_ingests(session)
                    if any_lapsed(session):
                        self._away_at = time.monotonic()
        except DatabaseFailed:
            self._away_at = time.monotonic()
            raise
        # What is wrong with the audit log alone keeps nobody from keeping a lease.
        with self._database.write() as session:
            seal(session)
        with self._database.write() as session:
            fold(session)
            count_ended(session)
        return lost
