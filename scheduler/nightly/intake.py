"""The intake of a nightly run: its source is walked, and what is new goes into a cohort of its own."""

from __future__ import annotations

import logging

from db.database_errors import DatabaseFailed
from db.engine import Database
from db.errors import PneumoscreenError
from db.jobs.cohorts import CohortUnknown, find_cohort, lock_cohort
from db.jobs.ingests import CohortCancelled, end_ingest
from db.lease import Heartbeat, LeaseLost
from db.nights.runs import attach, claim_night, fail_reading, find_night, finish_reading, now, own_cohort
from db.states import CohortState
from scheduler.ingest import open_source
from scheduler.ingest.left_out import LeftOut
from scheduler.ingest.source import Source, SourceEmpty
from scheduler.nightly.known_files import KnownFiles
from scheduler.nightly.schedule import Nightly, NightlySettings
from scheduler.submit import Hooks, submit, take_ingest

log = logging.getLogger(__name__)

#: Seconds for which a source is tried if the run has no window.
_RETRY_SECONDS = 43_200.0
#: A lease is five heartbeats. After that, another worker may walk the source, for example if a share hangs.
_LEASE_SECONDS = 60.0


def walk_night(database: Database, settings: NightlySettings, run_id: int) -> bool:
    """Take in what is new in a run's source; return False if the run cannot be claimed.

    Safe to repeat: after a worker was killed, the next one continues. A source that cannot be walked is tried
    again until the window ends.
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
        raise  # not the source's fault, and not recorded: the lease expires, and a worker is notified again
    except PneumoscreenError as error:
        log.warning("nightly run %d: %s", run_id, error.code, extra={"night": run_id, "code": error.code})
        with database.write() as session:
            run = find_night(session, run_id)
            until = run.window_ends or run.slot + _RETRY_SECONDS
            again = now(session) + settings.nightly_retry_seconds < until
            fail_reading(session, lease, error.code, again=again)
    return True


def _walk(database: Database, run_id: int, heartbeat: Heartbeat) -> int | None:
    """Walk a run's source; return the cohort, or None if nothing was new."""
    with database.read() as session:
        run = find_night(session, run_id)
        schedule = Nightly.model_validate(run.plan)
        name = own_cohort(session, run, schedule.cohort_name(run.slot))
    source = open_source(schedule.source)
    known = KnownFiles(database, schedule.name)
    hooks = Hooks(
        known=(known,),
        on_open=lambda session, cohort: attach(session, cohort, find_night(session, run_id)),
        on_found=heartbeat.check,
    )
    try:
        cohort_id = _take_in(database, source, schedule, name, hooks)
        known.save()
    finally:
        _log_folders(run_id, source)
    return cohort_id


def _log_folders(run_id: int, source: Source) -> None:
    """Log the folders that were not walked, and warn of those that may not be read."""
    folders = LeftOut(
        skipped_folders=source.omissions.folders, closed_folders=source.omissions.closed
    ).folders_as_text()
    if folders:
        level = logging.WARNING if source.omissions.closed else logging.INFO
        log.log(level, "nightly run %d: %s", run_id, folders, extra={"night": run_id})


def _take_in(database: Database, source: Source, schedule: Nightly, name: str, hooks: Hooks) -> int | None:
    try:
        return submit(
            database,
            source,
            name=name,
            priority=schedule.priority,
            model=schedule.model,
            hooks=hooks,
        ).cohort_id
    except CohortCancelled:  # while it was filled: another attempt would undo the cancellation
        with database.read() as session:
            return find_cohort(session, name).id
    except SourceEmpty:
        return _taken_in_before(database, schedule.name, name, source.described)


def _taken_in_before(database: Database, nightly: str, name: str, source: str) -> int | None:
    """Return the cohort that an earlier attempt has filled with all that is new, or None."""
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
