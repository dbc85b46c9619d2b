"""The screening worker's Celery task: `celery -A worker.tasks worker -Q screen`."""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any

from celery.signals import worker_init
from kombu.exceptions import OperationalError

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
    _pipeline().screen(batch_id)
    try:
        # Room for another batch: ask for it now rather than at the next tick.
        app.send_task(DISPATCH)
    except OperationalError:
        log.warning("the broker is away; the next tick hands out more batches")


@worker_init.connect  # type: ignore[untyped-decorator]
def load_champion(**_: Any) -> None:
    """Load the champion before the worker says that it is ready, so that the first batch does not wait."""
    keep_memory()
    pipeline = _pipeline()
    with pipeline.database.read() as session:
        model = find_champion(session)
    if model is not None:
        pipeline.residents.get(model.id)
