"""Retraining by itself, once enough has been labelled since the champion was registered."""

from __future__ import annotations

from db.engine import Database
from db.labels import added_since, labelled_files
from db.registry import find_champion
from db.runs import all_runs, open_run
from training.plan import Plan
from training.recipe import RECIPES, RecipeName
from training.settings import TrainingSettings


def trigger(database: Database, settings: TrainingSettings) -> int | None:
    """Open a run where there are enough new labels that no run has seen; return its id.

    Safe to repeat: the run that it opened has seen them.
    """
    if settings.retrain_new_labels == 0:
        return None
    with database.write() as session:
        champion = find_champion(session)
        runs = all_runs(session)
        since = max(
            champion.created_at if champion is not None else 0.0,
            runs[0].created_at if runs else 0.0,
        )
        # Cheap, and all that most looks need: the files of all labels are found among all images.
        if added_since(session, since) < settings.retrain_new_labels:
            return None
        new = [file for file in labelled_files(session) if not file.contradicts and file.labelled_at > since]
        if len(new) < settings.retrain_new_labels:
            return None
        plan = Plan(
            recipe=Plan.fields_of(RECIPES[RecipeName.CLINICAL]),
            data=settings.data_folder,
            use_labels=True,
            weights=settings.weights_folder,
        )
        return open_run(session, plan.model_dump(mode="json"), for_worker=True).id
