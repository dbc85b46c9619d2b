"""The screening worker's Celery task: `celery -A worker.tasks worker -Q screen`."""

from __future__ import annotations

import functools
import itertools
import logging
import os
import signal
from typing import TYPE_CHECKING, Any

from celery.signals import worker_init, worker_ready, worker_shutting_down
from kombu.exceptions import OperationalError

from db.database_errors import DatabaseFailed
from db.engine import Database
from db.registry import find_champion
from worker.allocator import keep_memory
from worker.app import DISPATCH, SCREEN_BATCH, app
from worker.settings import WorkerSettings

if TYPE_CHECKING:
    from worker.pipeline import Pipeline

__all__ = ["app", "screen_batch"]

log = logging.getLogger(__name__)


@functools.cache
def _pipeline() -> Pipeline:
    """Return this process' pipeline; made in the process that uses it, never before a fork."""
    from worker.pipeline import Pipeline

    return Pipeline(Database(), WorkerSettings.read())


@app.task(name=SCREEN_BATCH)  # type: ignore[untyped-decorator]
def screen_batch(batch_id: int) -> None:
    """Screen one batch of images."""
    try:
        _pipeline().screen(batch_id)
    except DatabaseFailed as error:
        log.warning("batch %d: %s; it is rung for again", batch_id, error.code, extra={"batch": batch_id})
        return
    try:
        # Room for another batch: ask for it now rather than at the next tick.
        app.send_task(DISPATCH)
    except OperationalError:
        log.warning("the broker is away; the next tick hands out more batches")


_terms = itertools.count(1)


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _count_terms(sig: str = "", **_: Any) -> None:
    """Wait for no job table any more; take a second TERM for a QUIT: Celery ignores it."""
    _pipeline().stopping.set()
    if sig == "SIGTERM" and next(_terms) == 2:
        os.kill(os.getpid(), signal.SIGQUIT)


@worker_ready.connect  # type: ignore[untyped-decorator]
def _give_up_at_quit(**_: Any) -> None:
    """Give batches back before Celery's own handler, which waits for them."""
    its_own = signal.getsignal(signal.SIGQUIT)

    def give_up(number: int, frame: Any) -> None:
        _pipeline().give_up()
        if callable(its_own):
            its_own(number, frame)

    signal.signal(signal.SIGQUIT, give_up)


@worker_init.connect  # type: ignore[untyped-decorator]
def load_champion(**_: Any) -> None:
    """Load the champion before the worker says that it is ready, so that the first batch does not wait."""
    keep_memory()
    pipeline = _pipeline()
    try:
        with pipeline.database.read() as session:
            model = find_champion(session)
    except DatabaseFailed as error:
        log.warning("%s; the first batch loads its model", error.code)
        return
    if model is not None:
        pipeline.residents.get(model.id)
