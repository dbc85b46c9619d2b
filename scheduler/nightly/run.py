"""A night: opened when its slot comes, its source walked, concluded when its images or its window end."""

from __future__ import annotations

import logging

from db.database_errors import DatabaseFailed
from db.engine import Database
from db.errors import PneumoscreenError
from db.jobs.cohorts import CohortUnknown, find_cohort, lock_cohort
from db.jobs.ingests import CohortCancelled, end_ingest
from db.jobs.notifications import count_waiting, mark_notified, rows_to_notify
from db.lease import Heartbeat, LeaseLost
from db.nights.runs import (
    attach,
    claim_night,
    fail_reading,
    find_night,
    finish_reading,
    now,
    open_now,
    open_slot,
    own_cohort,
)
from db.states import CohortState
from db.tables import NightlyRun
from scheduler.ingest import open_source
from scheduler.ingest.source import SourceEmpty
from scheduler.nightly.schedule import Nightly, NightlySettings
from scheduler.nightly.unseen import Unseen
from scheduler.submit import submit, take_ingest
from worker.broker.notify import Notifier, notify_queue

log = logging.getLogger(__name__)

#: Seconds that a source without a window is tried for.
_PATIENCE = 43_200.0
#: A lease is five heartbeats; walking a share that hangs is somebody else's after this long.
_LEASE_SECONDS = 60.0


def open_due(database: Database, settings: NightlySettings) -> list[int]:
    """Open the run of each schedule's latest slot that has none; return the new ones.

    A slot that passed while nothing ran is made up when this runs again; of several, the last alone, which
    finds all that is new.
    """
    with database.read() as session:
        moment = now(session)
    return open_slots(database, settings.nightly, moment)


def open_slots(database: Database, schedules: tuple[Nightly, ...], moment: float) -> list[int]:
    """Open the runs that are due at a moment."""
    opened = []
    for schedule in schedules:
        slot = schedule.latest_slot(moment)
        with database.write() as session:
            run_id = open_slot(
                session,
                schedule.name,
                slot,
                plan=schedule.as_json(),
                window_ends=schedule.window_end(slot),
            )
        if run_id is not None:
            opened.append(run_id)
    return opened


def run_now(database: Database, schedule: Nightly) -> int:
    """Open a run of a schedule at once, without a window; return its id."""
    with database.write() as session:
        return open_now(session, schedule.name, plan=schedule.as_json(), window_ends=None)


def ring_nights(database: Database, settings: NightlySettings, notifier: Notifier) -> int:
    """Tell the ingest queue of runs whose source is to be walked; return how many."""
    with database.read() as session:
        due = rows_to_notify(session, NightlyRun, again_seconds=settings.nightly_retry_seconds)
        waiting = count_waiting(session, NightlyRun)
    rung = notify_queue(notifier, due, open_rows=waiting)
    if rung:
        with database.write() as session:
            mark_notified(session, NightlyRun, rung)
    return len(rung)


def walk_night(database: Database, settings: NightlySettings, run_id: int) -> bool:
    """Take in what is new in a run's source; False where the run is not there to be taken up.

    Killed in the middle and taken up again it goes on: what is there stays. A source that cannot be walked
    is tried again until the window ends.
    """
    with database.write() as session:
        lease = claim_night(session, run_id, lease_seconds=_LEASE_SECONDS)
    if lease is None:
        return False
    try:
        with Heartbeat(database, lease) as heartbeat:
            cohort_id = _walk(database, run_id, heartbeat)
        with database.write() as session:
            finish_reading(session, lease, cohort_id=cohort_id)
    except LeaseLost:
        log.warning("nightly run %d was taken over", run_id, extra={"night": run_id})
    except DatabaseFailed:
        raise  # it says nothing of the source, and cannot be noted: the lease ends, and it is rung for again
    except PneumoscreenError as error:
        log.warning("nightly run %d: %s", run_id, error.code, extra={"night": run_id, "code": error.code})
        with database.write() as session:
            run = find_night(session, run_id)
            until = run.window_ends or run.slot + _PATIENCE
            again = now(session) + settings.nightly_retry_seconds < until
            fail_reading(session, lease, error.code, again=again)
    return True


def _walk(database: Database, run_id: int, heartbeat: Heartbeat) -> int | None:
    """Walk a run's source; return the cohort, or None where nothing was new."""
    with database.read() as session:
        run = find_night(session, run_id)
        schedule = Nightly.model_validate(run.plan)
        name = own_cohort(session, run, schedule.cohort_name(run.slot))
    source = open_source(schedule.source)
    unseen = Unseen(source, database, schedule.name)
    try:
        cohort_id = _take_in(database, unseen, schedule, name, run_id, heartbeat)
        unseen.remember()
    finally:
        if source.closed_folders:
            closed = source.closed_folders
            log.warning(
                "nightly run %d: folders that may not be read: %d", run_id, closed, extra={"night": run_id}
            )
    return cohort_id


def _take_in(
    database: Database, unseen: Unseen, schedule: Nightly, name: str, run_id: int, heartbeat: Heartbeat
) -> int | None:
    try:
        return submit(
            database,
            unseen,
            name=name,
            priority=schedule.priority,
            model=schedule.model,
            on_found=lambda _: heartbeat.check(),
            on_open=lambda session, cohort: attach(session, cohort, find_night(session, run_id)),
        ).cohort_id
    except CohortCancelled:  # by somebody, meanwhile: another try would undo it
        with database.read() as session:
            return find_cohort(session, name).id
    except SourceEmpty:
        return _taken_in_before(database, schedule.name, name, unseen.described)


def _taken_in_before(database: Database, nightly: str, name: str, source: str) -> int | None:
    """Return the cohort that an earlier try has filled with all there is, or None."""
    with database.write() as session:
        try:
            cohort = find_cohort(session, name)
        except CohortUnknown:
            return None
        if cohort.nightly != nightly:
            return None
        if lock_cohort(session, cohort.id).state is CohortState.INGESTING:
            end_ingest(session, take_ingest(session, cohort.id, source))
        return cohort.id
