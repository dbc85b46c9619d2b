"""Slots of nightly schedules: the runs that are due are opened, and workers are notified of them."""

from __future__ import annotations

from db.engine import Database
from db.nights.runs import now, open_now, open_slot
from db.tables import NightlyRun
from scheduler.dispatch import notify_waiting
from scheduler.nightly.schedule import Nightly, NightlySettings
from worker.broker.notify import Notifier


def open_due(database: Database, settings: NightlySettings) -> list[int]:
    """Open a run for each schedule's latest slot that has none; return the new runs.

    If several slots passed while nothing ran, only the last one is opened: its run finds all new files.
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
    """Open a run of a schedule now, without a window; return its id."""
    with database.write() as session:
        return open_now(session, schedule.name, plan=schedule.as_json(), window_ends=None)


def notify_nights(database: Database, settings: NightlySettings, notifier: Notifier) -> int:
    """Notify the ingest queue of runs whose source is to be walked; return how many."""
    return notify_waiting(database, NightlyRun, notifier, again_seconds=settings.nightly_retry_seconds)
