"""The training worker's Celery task: `celery -A training.tasks worker -Q training`."""

from __future__ import annotations

import functools
import logging
import threading
from typing import Any

from celery.signals import worker_shutting_down

from db.database_errors import DatabaseFailed
from db.engine import Database
from worker.broker.app import TRAIN, TRIGGER, app

__all__ = ["app", "train_run", "trigger_run"]

log = logging.getLogger(__name__)

_stopping = threading.Event()


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _stop(**_: Any) -> None:
    """Let the run go at its next step: waiting for its end would take hours."""
    _stopping.set()


@functools.cache
def _database() -> Database:
    return Database()


@app.task(name=TRAIN)  # type: ignore[untyped-decorator]
def train_run(run_id: int) -> None:
    """Take a training run up, or do nothing where it is not there to be taken: doubled messages are."""
    # Here, not above: an idle training worker holds no torch.
    from db.lease import LeaseLost
    from db.training.runs import RunNotOpen
    from training.run.lifecycle import train
    from training.run.progress import Interrupted, Step

    def go_on(_: Step) -> None:
        if _stopping.is_set():
            raise Interrupted

    try:
        finished = train(_database(), run_id, on_step=go_on)
    except RunNotOpen:
        log.info("run %d is not there to be taken up", run_id, extra={"run": run_id})
    except Interrupted:
        log.warning(
            "run %d waits for another worker; it goes on from its last epoch", run_id, extra={"run": run_id}
        )
    except LeaseLost:
        log.warning("lease of run %d was lost", run_id, extra={"run": run_id})
    except DatabaseFailed as error:
        log.warning("run %d: %s; it goes on when its lease ends", run_id, error.code, extra={"run": run_id})
    else:
        log.info("run %d: %d backbones trained, winner %s", run_id, len(finished.outcomes), finished.winner)


@app.task(name=TRIGGER)  # type: ignore[untyped-decorator]
def trigger_run() -> None:
    """Open a run once enough has been labelled; the next tick of dispatching rings for it."""
    from training.settings import TrainingSettings

    settings = TrainingSettings.read()
    if settings.retrain_new_labels == 0:
        return
    # Imports the recipes, and with them torch: only where retraining by itself is wanted.
    from training.trigger import trigger

    try:
        run_id = trigger(_database(), settings)
    except DatabaseFailed as error:
        log.warning("labels: %s; the next tick counts them", error.code)
        return
    if run_id is not None:
        log.info("run %d: enough new labels", run_id, extra={"run": run_id})
