"""The training worker's Celery task: `celery -A training.tasks worker -Q training`."""

from __future__ import annotations

import functools
import logging
import threading
from typing import Any

from celery.signals import worker_shutting_down

from db.database_errors import DatabaseFailed
from db.engine import Database
from db.text import counted
from worker.broker.app import TRAIN, TRIGGER, app

__all__ = ["app", "train_run", "trigger_run"]

log = logging.getLogger(__name__)

_stopping = threading.Event()


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _stop(**_: Any) -> None:
    """Interrupt the run at its next step: its end may be hours away."""
    _stopping.set()


@functools.cache
def _database() -> Database:
    return Database()


@app.task(name=TRAIN)  # type: ignore[untyped-decorator]
def train_run(run_id: int) -> None:
    """Claim and finish a training run. Do nothing if it cannot be claimed: a message can come twice."""
    # Imported here, so that an idle training worker has not loaded torch.
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
        log.info("run %d cannot be claimed", run_id, extra={"run": run_id})
    except Interrupted:
        log.warning(
            "run %d waits for another worker; it resumes after its last epoch", run_id, extra={"run": run_id}
        )
    except LeaseLost:
        log.warning("lease of run %d was lost", run_id, extra={"run": run_id})
    except DatabaseFailed as error:
        log.warning("run %d: %s; it resumes when its lease ends", run_id, error.code, extra={"run": run_id})
    else:
        trained = counted(len(finished.outcomes), "backbone")
        log.info("run %d: %s trained, winner %s", run_id, trained, finished.winner)


@app.task(name=TRIGGER)  # type: ignore[untyped-decorator]
def trigger_run() -> None:
    """Open a run if there are enough new labels. The next dispatch notifies a worker of it."""
    from training.settings import TrainingSettings

    settings = TrainingSettings.read()
    if settings.retrain_new_labels == 0:
        return
    # Imported here: without automatic retraining it is not needed.
    from training.trigger import trigger

    try:
        run_id = trigger(_database(), settings)
    except DatabaseFailed as error:
        log.warning("new labels: %s; they are counted again later", error.code)
        return
    if run_id is not None:
        log.info("run %d: enough new labels", run_id, extra={"run": run_id})
