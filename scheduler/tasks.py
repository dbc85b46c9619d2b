"""Housekeeping as Celery tasks: `celery -A scheduler.tasks worker -Q housekeeping`, with `beat` beside it."""

from __future__ import annotations

import functools

from db.engine import Database
from scheduler.dispatch import dispatch, dispatch_runs, sweep
from scheduler.settings import SchedulerSettings
from worker.app import DISPATCH, SCREEN_BATCH, SWEEP, TRAIN, TRIGGER, app

__all__ = ["app", "dispatch_batches", "ring", "ring_run", "sweep_leases"]

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
    )
}


def ring(batch_id: int) -> None:
    """Tell the broker of a batch."""
    app.send_task(SCREEN_BATCH, args=(batch_id,))


def ring_run(run_id: int) -> None:
    """Tell the broker of a training run."""
    app.send_task(TRAIN, args=(run_id,))


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
