"""Housekeeping as Celery tasks: `celery -A scheduler.tasks worker -Q housekeeping`, with `beat` beside it."""

from __future__ import annotations

import functools

from db.engine import Database
from scheduler.dispatch import dispatch, dispatch_runs, sweep
from scheduler.nightly.night import open_due, ring_nights, walk_night
from scheduler.nightly.schedule import NightlySettings
from scheduler.nightly.summary import conclude, summarise
from scheduler.settings import SchedulerSettings
from worker.app import DISPATCH, INGEST_NIGHT, NIGHTLY, SCREEN_BATCH, SWEEP, TRAIN, TRIGGER, app

__all__ = [
    "app", "dispatch_batches", "ingest_night", "nightly", "ring", "ring_night", "ring_run", "sweep_leases",
]  # fmt: skip

_SETTINGS = SchedulerSettings.read()

#: Seconds between two looks at how much has been labelled.
_TRIGGER_SECONDS = 600.0

app.conf.beat_schedule = {
    name: {
        "task": task,
        "schedule": seconds,
        # While nobody is there to run them, ticks must not pile up.
        "options": {"expires": seconds},
    }
    for name, task, seconds in (
        ("dispatch", DISPATCH, _SETTINGS.dispatch_seconds),
        ("sweep", SWEEP, _SETTINGS.sweep_seconds),
        ("trigger", TRIGGER, _TRIGGER_SECONDS),
        ("nightly", NIGHTLY, NightlySettings.read().nightly_seconds),
    )
}


def ring(batch_id: int) -> None:
    """Tell the broker of a batch."""
    app.send_task(SCREEN_BATCH, args=(batch_id,))


def ring_run(run_id: int) -> None:
    """Tell the broker of a training run."""
    app.send_task(TRAIN, args=(run_id,))


def ring_night(run_id: int) -> None:
    """Tell the broker of a nightly run."""
    app.send_task(INGEST_NIGHT, args=(run_id,))


@functools.cache
def _database() -> Database:
    return Database()


@app.task(name=DISPATCH)  # type: ignore[untyped-decorator]
def dispatch_batches() -> None:
    """Cut pending images into batches and ring for them, and for training runs."""
    dispatch(_database(), _SETTINGS, ring)
    dispatch_runs(_database(), _SETTINGS, ring_run)


@app.task(name=SWEEP)  # type: ignore[untyped-decorator]
def sweep_leases() -> None:
    """Take batches and training runs away from workers that died."""
    if sweep(_database()):
        dispatch_batches()


@app.task(name=NIGHTLY)  # type: ignore[untyped-decorator]
def nightly() -> None:
    """Open the nightly runs that are due, have their sources walked, and conclude those that have ended."""
    settings = NightlySettings.read()
    open_due(_database(), settings)
    ring_nights(_database(), settings, ring_night)
    for run_id in conclude(_database()):
        summarise(_database(), settings, run_id)


@app.task(name=INGEST_NIGHT)  # type: ignore[untyped-decorator]
def ingest_night(run_id: int) -> None:
    """Walk a nightly run's source, or do nothing where somebody else has."""
    walk_night(_database(), NightlySettings.read(), run_id)
