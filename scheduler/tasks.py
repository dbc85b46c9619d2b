"""Housekeeping as Celery tasks: `celery -A scheduler.tasks worker -Q housekeeping`, with `beat` beside it."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable
from typing import Any

from celery.signals import celeryd_after_setup, worker_ready
from kombu.exceptions import OperationalError

from db.database_errors import DatabaseFailed
from db.engine import Database
from scheduler.dispatch import Sweeper, dispatch, dispatch_runs
from scheduler.nightly.conclusion import conclude, summarise
from scheduler.nightly.intake import walk_night
from scheduler.nightly.schedule import NightlySettings
from scheduler.nightly.slots import notify_nights, open_due
from scheduler.settings import SchedulerSettings
from worker.broker.app import (
    DISPATCH,
    HOUSEKEEPING,
    INGEST,
    INGEST_NIGHT,
    NIGHTLY,
    SCREEN,
    SCREEN_BATCH,
    SWEEP,
    TRAIN,
    TRAINING,
    TRIGGER,
    app,
)
from worker.broker.notify import QueueNotifier

__all__ = [
    "BATCHES", "NIGHTS", "RUNS", "app", "dispatch_batches", "ingest_night", "nightly", "sweep_leases",
]  # fmt: skip

log = logging.getLogger(__name__)

#: Seconds between two counts of new labels.
_TRIGGER_SECONDS = 600.0

#: Sources that are listed at the same time. A housekeeping worker has more threads, for sweeps and dispatch.
_walks = threading.BoundedSemaphore(4)


def _beat() -> dict[str, Any]:
    """Return the configuration of beat; Celery calls this when the application is first used."""
    ticks = (
        ("dispatch", DISPATCH, _settings().dispatch_seconds),
        ("sweep", SWEEP, _settings().sweep_seconds),
        ("trigger", TRIGGER, _TRIGGER_SECONDS),
        ("nightly", NIGHTLY, NightlySettings.read().nightly_seconds),
    )
    return {"beat_schedule": {name: {"task": task, "schedule": seconds} for name, task, seconds in ticks}}


app.add_defaults(_beat)

#: The notifier of each queue.
BATCHES = QueueNotifier(app, SCREEN, SCREEN_BATCH)
RUNS = QueueNotifier(app, TRAINING, TRAIN)
NIGHTS = QueueNotifier(app, INGEST, INGEST_NIGHT)


@functools.cache
def _settings() -> SchedulerSettings:
    return SchedulerSettings.read()


@functools.cache
def _database() -> Database:
    return Database()


def _tick(name: str) -> Callable[[Callable[[], None]], Any]:
    """Make a task of a function that runs in one thread at a time.

    All ticks that arrive during a run cause one more run, so they cannot pile up. If the job table is
    unavailable, the task logs a line, and the next tick does the work.
    """

    def make(do: Callable[[], None]) -> Any:
        asked, running = threading.Event(), threading.Lock()

        @functools.wraps(do)
        def tick() -> None:
            asked.set()
            while asked.is_set() and running.acquire(blocking=False):
                try:
                    asked.clear()
                    do()
                except DatabaseFailed as error:
                    log.warning("%s: %s; the next tick tries again", name, error.code)
                finally:
                    running.release()

        # No events: Flower keeps a limited number of tasks, and ticks come much more often than batches.
        return app.task(name=name, send_events=False)(tick)

    return make


@_tick(DISPATCH)
def dispatch_batches() -> None:
    """Cut pending images into batches, and send notifications for batches and training runs."""
    dispatch(_database(), _settings(), BATCHES)
    dispatch_runs(_database(), _settings(), RUNS)


@functools.cache
def _sweeper() -> Sweeper:
    return Sweeper(_database())


@_tick(SWEEP)
def sweep_leases() -> None:
    """Take batches and training runs away from workers that died."""
    if _sweeper().sweep():
        dispatch_batches()


@_tick(NIGHTLY)
def nightly() -> None:
    """Open the nightly runs that are due, send notifications for them, and conclude runs that have ended."""
    settings = NightlySettings.read()
    open_due(_database(), settings)
    notify_nights(_database(), settings, NIGHTS)
    for run_id in conclude(_database()):
        summarise(_database(), settings, run_id)


@app.task(name=INGEST_NIGHT)  # type: ignore[untyped-decorator]
def ingest_night(run_id: int) -> None:
    """Walk the source of a nightly run; do nothing if another worker already walks it."""
    if not _walks.acquire(blocking=False):
        log.info("enough sources are being walked; nightly run %d is notified again later", run_id)
        return
    try:
        walk_night(_database(), NightlySettings.read(), run_id)
    except DatabaseFailed as error:
        log.warning("nightly run %d: %s; it continues when its lease ends", run_id, error.code)
    finally:
        _walks.release()


@celeryd_after_setup.connect  # type: ignore[untyped-decorator]
def forget_old_ticks(**_: Any) -> None:
    """Remove ticks that were sent while no worker was running; the next ticks do their work.

    An expiry time would not work: it would compare the clock of beat's machine with this machine's clock.
    """
    if HOUSEKEEPING not in app.amqp.queues.consume_from:
        return
    try:
        with app.connection_for_write() as connection:
            app.amqp.queues[HOUSEKEEPING](connection.default_channel).purge()
    except OperationalError:
        log.info("the broker is unavailable; old ticks do no harm")


@worker_ready.connect  # type: ignore[untyped-decorator]
def _dispatch_at_start(**_: Any) -> None:
    """Ask for batches at once: the first tick comes after `dispatch_seconds`."""
    if HOUSEKEEPING in app.amqp.queues.consume_from:
        try:
            dispatch_batches.delay()
        except OperationalError:
            log.info("the broker is unavailable; the first tick does it")
