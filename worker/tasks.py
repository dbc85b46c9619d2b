"""The screening worker's Celery task: `celery -A worker.tasks worker -Q screen`."""

from __future__ import annotations

import functools
import logging
import signal
import sys
from typing import TYPE_CHECKING, Any

from celery import bootsteps
from celery.platforms import EX_FAILURE
from celery.signals import worker_init, worker_ready, worker_shutting_down
from celery.worker import state
from kombu.exceptions import OperationalError

from db.database_errors import DatabaseFailed
from db.engine import Database
from db.models.registry import find_champion
from worker.broker.app import DISPATCH, SCREEN_BATCH, app
from worker.runtime.torch.allocator import keep_memory
from worker.settings import WorkerSettings

if TYPE_CHECKING:
    from worker.screening.batch import Screener

__all__ = ["app", "screen_batch"]

log = logging.getLogger(__name__)


@functools.cache
def _screener() -> Screener:
    """Return this process' screener. It is made in the process that uses it, never before a fork."""
    from worker.screening.batch import Screener

    return Screener(Database(), WorkerSettings.read())


class _Gpus(bootsteps.StartStopStep):  # type: ignore[misc]
    """What Flower shows of a worker's GPUs, under "Other"."""

    def info(self, worker: Any) -> dict[str, list[str]]:
        """Return the name and the memory of each; none before torch is loaded, or without it."""
        if "torch" not in sys.modules:
            return {"gpus": []}
        from worker.runtime.torch.device import gpus

        return {"gpus": gpus()}


app.steps["worker"].add(_Gpus)


@app.task(name=SCREEN_BATCH)  # type: ignore[untyped-decorator]
def screen_batch(batch_id: int) -> dict[str, int] | None:
    """Screen one batch of images; return its row ids for Flower: it may be another than the message names."""
    screener = _screener()
    try:
        screened = screener.screen(batch_id)
    except DatabaseFailed as error:
        log.warning(
            "batch %d: %s; it is notified again later", batch_id, error.code, extra={"batch": batch_id}
        )
        return None
    finally:
        if screener.device.is_lost:
            log.error("the GPU failed; this worker ends, and its supervisor starts another one")
            _give_up()
    if screened is None:
        return None  # nothing was claimed, so there is no room for another batch
    try:
        # Room for another batch: ask for it now rather than at the next tick.
        app.send_task(DISPATCH)
    except OperationalError:
        log.warning("the broker is unavailable; the next tick sends more batches")
    return {"batch": screened.batch_id, "cohort": screened.cohort_id}


def _give_up(*_: Any) -> None:
    """Give batches back and end. Celery's own handler cancels running tasks, which threads do not support."""
    _screener().give_up()
    state.should_terminate = EX_FAILURE


@worker_ready.connect  # type: ignore[untyped-decorator]
def _give_up_at_quit(**_: Any) -> None:
    signal.signal(signal.SIGQUIT, _give_up)


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _give_up_when_told_twice(sig: str = "", **_: Any) -> None:
    """Treat a second TERM or INT as a QUIT. After the first one, running batches are finished.

    From the first one on, the worker does not wait for an unavailable job table.
    """
    _screener().stopping.set()
    if sig in ("SIGTERM", "SIGINT"):
        signal.signal(signal.Signals[sig], _give_up)


@worker_init.connect  # type: ignore[untyped-decorator]
def load_champion(**_: Any) -> None:
    """Load the champion before the worker is ready, so that the first batch does not wait."""
    keep_memory()
    screener = _screener()
    try:
        with screener.database.read() as session:
            model = find_champion(session)
    except DatabaseFailed as error:
        log.warning("%s; the first batch loads its model", error.code)
        return
    if model is not None:
        screener.prepare(model.id)
