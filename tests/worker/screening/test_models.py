"""Models that cannot be used: the batch waits."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from sqlalchemy import select

from db.engine import Database
from db.jobs.batches import cut_batches
from db.jobs.cohorts import find_cohort
from db.models.card import ModelPreprocessingMismatch
from db.models.registry import import_model, promote
from db.models.store import WEIGHTS_FILE, ModelDigestMismatch, ModelMissing
from db.queries.progress import progress
from db.states import BatchState
from db.tables import Batch, Model, Prediction
from tests.worker.screening.batches import outcomes, pause_is_over, submit
from worker.screening.batch import Screener
from worker.settings import WorkerSettings


def test_a_swapped_model_is_refused_and_the_batch_waits(
    database: Database, model: Model, files: list[Path]
) -> None:
    weights = database.models_folder / model.name / WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:-1])
    batch_id = submit(database, files)
    with pytest.raises(ModelDigestMismatch):
        Screener(database, WorkerSettings()).screen(batch_id)
    with database.read() as session:
        assert session.get_one(Batch, batch_id).state is BatchState.QUEUED
        assert progress(session)[0].queued == len(files)


def test_images_of_a_missing_model_go_into_a_new_batch_once_another_is_champion(
    database: Database, model: Model, other_artefact: Path, files: list[Path]
) -> None:
    batch_id = submit(database, files)
    shutil.rmtree(database.models_folder / model.name)
    with pytest.raises(ModelMissing):
        Screener(database, WorkerSettings()).screen(batch_id)
    with database.read() as session:
        assert progress(session)[0].waits_for == "model-missing"
    assert not Screener(database, WorkerSettings()).screen(batch_id), "it was tried again at once"
    pause_is_over(database)
    other = import_model(database, other_artefact)
    with database.write() as session:
        promote(session, other.name)
    with pytest.raises(ModelMissing):
        Screener(database, WorkerSettings()).screen(batch_id)
    with database.write() as session:
        assert session.get_one(Batch, batch_id).state is BatchState.CANCELLED
        cohort_id = find_cohort(session, "trial").id
        (new_batch_id,) = cut_batches(session, cohort_id, batch_images=256, in_flight=9)
    Screener(database, WorkerSettings()).screen(new_batch_id)
    with database.read() as session:
        assert set(session.scalars(select(Prediction.model_id))) == {other.id}
        assert (progress(session)[0].done, progress(session)[0].waits_for) == (len(files), None)


def test_a_model_of_another_preprocessing_screens_nothing_and_its_cohort_says_so(
    database: Database, model: Model, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = submit(database, files)
    with monkeypatch.context() as earlier:
        # As after an upgrade: the model was registered with an earlier version.
        earlier.setattr("db.models.card.PREPROCESSING", "another/2")
        with pytest.raises(ModelPreprocessingMismatch):
            Screener(database, WorkerSettings()).screen(batch_id)
        with database.read() as session:
            assert progress(session)[0].waits_for == "model-preprocessing-mismatch"
            assert session.scalars(select(Prediction)).all() == []
            assert set(outcomes(database).values()) == {"queued"}
    pause_is_over(database)
    Screener(database, WorkerSettings()).screen(batch_id)
    assert set(outcomes(database).values()) == {"done"}


@pytest.mark.parametrize("damage", ["missing", "truncated", "swapped"])
def test_a_damaged_model_is_fixed_by_importing_it_again(
    damage: str, database: Database, model: Model, artefact: Path, other_artefact: Path, files: list[Path]
) -> None:
    weights = database.models_folder / model.name / WEIGHTS_FILE
    if damage == "missing":
        weights.unlink()
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1])
    else:
        weights.write_bytes((other_artefact / WEIGHTS_FILE).read_bytes())
    batch_id = submit(database, files)
    with pytest.raises((ModelMissing, ModelDigestMismatch)):
        Screener(database, WorkerSettings()).screen(batch_id)
    import_model(database, artefact)
    pause_is_over(database)
    Screener(database, WorkerSettings()).screen(batch_id)
    assert set(outcomes(database).values()) == {"done"}
