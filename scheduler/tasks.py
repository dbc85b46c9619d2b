"""Housekeeping as Celery tasks: `celery -A scheduler.tasks worker -Q housekeeping`, with `beat` beside it."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable
from typing import Any

from celery.signals import celeryd_after_setup
from kombu.exceptions import OperationalError

from db.database_errors import DatabaseFailed
from db.engine import Database
from scheduler.dispatch import Sweeper, dispatch, dispatch_runs
from scheduler.nightly.intake import walk_night
from scheduler.nightly.schedule import NightlySettings
from scheduler.nightly.slots import notify_nights, open_due
from scheduler.nightly.summary import conclude, summarise
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
from worker.broker.notify import QueueBell

__all__ = [
    "BATCHES", "NIGHTS", "RUNS", "app", "dispatch_batches", "ingest_night", "nightly", "sweep_leases",
]  # fmt: skip

log = logging.getLogger(__name__)

_SETTINGS = SchedulerSettings.read()

#: Seconds between two looks at how much has been labelled.
_TRIGGER_SECONDS = 600.0

#: Sources walked at a time: less than the threads of a housekeeping worker, which sweeps and hands out, too.
_walks = threading.BoundedSemaphore(4)

app.conf.beat_schedule = {
    name: {
        "task": task,
        "schedule": seconds,
    }
    for name, task, seconds in (
        ("dispatch", DISPATCH, _SETTINGS.dispatch_seconds),
        ("sweep", SWEEP, _SETTINGS.sweep_seconds),
        ("trigger", TRIGGER, _TRIGGER_SECONDS),
        ("nightly", NIGHTLY, NightlySettings.read().nightly_seconds),
    )
}


#: What each queue is notified by.
BATCHES = QueueBell(app, SCREEN, SCREEN_BATCH)
RUNS = QueueBell(app, TRAINING, TRAIN)
NIGHTS = QueueBell(app, INGEST, INGEST_NIGHT)


@functools.cache
def _database() -> Database:
    return Database()


def _tick(name: str) -> Callable[[Callable[[], None]], Any]:
    """Make a task of a function that one thread at a time runs.

    Ticks that come while it runs amount to one more run: they cannot pile up, however long it takes. Without
    the job table it logs a line, and the next tick does its work.
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

        # Flower would remember little else: two ticks come in five seconds, a batch in minutes.
        return app.task(name=name, send_events=False)(tick)

    return make


@_tick(DISPATCH)
def dispatch_batches() -> None:
    """Cut pending images into batches and ring for them, and for training runs."""
    dispatch(_database(), _SETTINGS, BATCHES)
    dispatch_runs(_database(), _SETTINGS, RUNS)


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
    """Open the nightly runs that are due, have their sources walked, and conclude those that have ended."""
    settings = NightlySettings.read()
    open_due(_database(), settings)
    notify_nights(_database(), settings, NIGHTS)
    for run_id in conclude(_database()):
        summarise(_database(), settings, run_id)


@app.task(name=INGEST_NIGHT)  # type: ignore[untyped-decorator]
def ingest_night(run_id: int) -> None:
    """Walk a nightly run's source, or do nothing where somebody else has."""
    if not _walks.acquire(blocking=False):
        log.info("enough sources are being walked; nightly run %d is rung for again", run_id)
        return
    try:
        walk_night(_database(), NightlySettings.read(), run_id)
    except DatabaseFailed as error:
        log.warning("nightly run %d: %s; it goes on when its lease ends", run_id, error.code)
    finally:
        _walks.release()


@celeryd_after_setup.connect  # type: ignore[untyped-decorator]
def forget_old_ticks(**_: Any) -> None:
    """Empty the queue of ticks that nobody was there for, before the worker begins: the next do their work.

    Ticks that expire would not do: they end at a time by beat's clock, which is held against this machine's.
    """
    if HOUSEKEEPING not in app.amqp.queues.consume_from:
        return
    try:
        with app.connection_for_write() as connection:
            app.amqp.queues[HOUSEKEEPING](connection.default_channel).purge()
    except OperationalError:
        log.info("the broker is away; old ticks do no harm")
