"""Housekeeping as Celery tasks: `celery -A scheduler.tasks worker -Q housekeeping`, with `beat` beside it."""

from __future__ import annotations

import functools

from db.engine import Database
from scheduler.dispatch import dispatch, sweep
from scheduler.settings import SchedulerSettings
from worker.app import DISPATCH, SCREEN_BATCH, SWEEP, app

__all__ = ["app", "dispatch_batches", "ring", "sweep_leases"]

_SETTINGS = SchedulerSettings.read()

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
    )
}


def ring(batch_id: int) -> None:
    """Tell the broker of a batch."""
    app.send_task(SCREEN_BATCH, args=(batch_id,))


@functools.cache
def _database() -> Database:
    return Database()


@app.task(name=DISPATCH)  # type: ignore[untyped-decorator]
def dispatch_batches() -> None:
    """Cut pending images into batches and ring for them."""
    dispatch(_database(), _SETTINGS, ring)


@app.task(name=SWEEP)  # type: ignore[untyped-decorator]
def sweep_leases() -> None:
    """Take batches away from workers that died."""
    if sweep(_database()):
        dispatch(_database(), _SETTINGS, ring)
