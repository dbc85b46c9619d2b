"""Automatic retraining, once there are enough new labels since the champion was registered."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.orm import Session

from db.engine import Database
from db.models.registry import find_champion
from db.nights.runs import now
from db.states import RunState
from db.tables import TrainingRun
from db.training.labels import added_since, labelled_files
from db.training.runs import all_runs, open_run
from training.plan import Plan
from training.recipe import RECIPES, RecipeName
from training.settings import TrainingSettings

#: Seconds after a run on labels failed, or was cancelled while it was queued, before another one is opened.
#: The next one would fail for the same reason, until somebody has fixed the cause.
_PAUSE_SECONDS = 86_400.0


def trigger(database: Database, settings: TrainingSettings) -> int | None:
    """Open a run if there are enough labels that no run has trained on; return its id.

    Runs without labels and failed runs have not used any. Safe to repeat: nothing is opened while a run on
    labels waits or runs.
    """
    if settings.retrain_new_labels == 0:
        return None
    with database.write() as session:
        runs = [run for run in all_runs(session) if run.plan.get("use_labels")]
        if any(_holds_back(session, run) for run in runs):
            return None
        since = _trained_until(session, runs)
        # Cheap, and enough in most cases: `labelled_files` searches all images for the files of the labels.
        if added_since(session, since) < settings.retrain_new_labels:
            return None
        new = [
            file
            for file in labelled_files(session)
            if file.uri is not None and not file.contradicts and file.labelled_at > since
        ]
        if len(new) < settings.retrain_new_labels:
            return None
        plan = Plan(
            recipe=RECIPES[RecipeName.CLINICAL],
            data=settings.data_folder,
            use_labels=True,
            weights=settings.weights_folder,
        )
        return open_run(session, plan.model_dump(mode="json"), for_worker=True).id


def _holds_back(session: Session, run: TrainingRun) -> bool:
    """Tell whether a run on labels is queued or running, or failed or was cancelled a short time ago."""
    # A run that was stopped and is for a worker was cancelled.
    if run.state is RunState.FAILED or (run.state is RunState.STOPPED and run.for_worker):
        return (run.finished_at or run.created_at) > now(session) - _PAUSE_SECONDS
    # A queued run that a command opened and did not claim holds nothing back.
    return run.state is RunState.RUNNING or (run.state is RunState.QUEUED and run.for_worker)


def _trained_until(session: Session, runs: Sequence[TrainingRun]) -> float:
    """Return the time up to which labels count as used: that of the champion or of a later finished run."""
    champion = find_champion(session)
    done = [run.created_at for run in runs if run.state is RunState.DONE]
    return max([champion.created_at if champion is not None else 0.0, *done])
