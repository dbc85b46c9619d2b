"""A batch in a worker: its claim, its lease, its predictions and its model."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from sqlalchemy import select, text

from db.engine import Database
from db.jobs.batches import cut_batches
from db.jobs.claims import claim
from db.jobs.cohorts import open_cohort
from db.jobs.images import NewImage, add_images
from db.jobs.sweep import expire_batches
from db.models.card import (
    PREPROCESSING,
)
from db.models.registry import import_model, promote
from db.queries.progress import progress
from db.states import BatchState, ImageState
from db.tables import Batch, Image, Model, Prediction
from tests.worker.screening.batches import outcomes, submit
from worker.runtime.protocol import Output, Precision
from worker.runtime.torch.runtime import TorchRuntime
from worker.screening.batch import Screener
from worker.settings import WorkerSettings


@pytest.mark.usefixtures("model")
def test_every_kind_of_phantom_is_screened(database: Database, files: list[Path]) -> None:
    Screener(database, WorkerSettings(forward_images=4)).screen(submit(database, files))
    assert len(files) == 10
    with database.read() as session:
        assert [image.state for image in session.scalars(select(Image))] == [ImageState.DONE] * 10
        assert session.scalars(select(Batch.state)).all() == [BatchState.DONE]


def test_a_prediction_records_the_model_and_how_it_was_run(
    database: Database, model: Model, files: list[Path]
) -> None:
    import hashlib

    Screener(database, WorkerSettings()).screen(submit(database, files[:1]))
    with database.read() as session:
        prediction = session.scalars(select(Prediction)).one()
        assert prediction.model_id == model.id
        assert prediction.threshold == model.threshold
        assert prediction.preprocessing == PREPROCESSING
        assert prediction.precision in ("fp32", "bf16")
        assert prediction.runtime.startswith(f"torch-{torch.__version__}/")
        assert prediction.software
        assert prediction.input_digest == hashlib.sha256(files[0].read_bytes()).hexdigest()
        assert (prediction.label == "PNEUMONIA") == (prediction.probability >= model.threshold)


@pytest.mark.usefixtures("model")
def test_the_lease_of_a_slow_batch_is_kept(
    database: Database, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = TorchRuntime.forward

    def slow(self: TorchRuntime, pixels: np.ndarray, *precision: Precision) -> Output:
        for _ in range(10):
            time.sleep(0.2)
            with database.write() as session:
                assert expire_batches(session) == 0
        return real(self, pixels, *precision)

    monkeypatch.setattr(TorchRuntime, "forward", slow)
    Screener(database, WorkerSettings(lease_seconds=1)).screen(submit(database, files[:3]))
    assert set(outcomes(database).values()) == {"done"}


@pytest.mark.usefixtures("model")
def test_a_worker_whose_lease_was_taken_stops_and_writes_nothing(
    database: Database, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = TorchRuntime.forward

    def robbed(self: TorchRuntime, pixels: np.ndarray, *precision: Precision) -> Output:
        with database.write() as session:
            row = session.get_one(Batch, batch_id)
            row.lease_token = "somebody else's"  # noqa: S105  (no secret)
        return real(self, pixels, *precision)

    batch_id = submit(database, files[:3])
    monkeypatch.setattr(TorchRuntime, "forward", robbed)
    Screener(database, WorkerSettings()).screen(batch_id)
    assert set(outcomes(database).values()) == {"running"}


@pytest.mark.usefixtures("model")
def test_a_batch_that_somebody_holds_is_left_alone(database: Database, files: list[Path]) -> None:
    batch_id = submit(database, files)
    with database.write() as session:
        assert claim(session, batch_id, owner="other", lease_seconds=60)
    Screener(database, WorkerSettings()).screen(batch_id)
    with database.read() as session:
        assert session.get_one(Batch, batch_id).lease_owner == "other"
        assert progress(session)[0].done == 0


@pytest.mark.usefixtures("model")
def test_two_threads_share_one_model(database: Database, files: list[Path]) -> None:
    with database.write() as session:
        cohort = open_cohort(session, "trial", source="/data")
        add_images(session, cohort.id, [NewImage(uri=str(f), frame=n) for n in range(4) for f in files])
        batch_ids = cut_batches(session, cohort.id, batch_images=256, in_flight=9)
    screener = Screener(database, WorkerSettings())
    threads = [threading.Thread(target=screener.screen, args=(batch_id,)) for batch_id in batch_ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(batch_ids) == 3
    with database.read() as session:
        assert progress(session)[0].done == 40


@pytest.mark.usefixtures("model")
def test_a_worker_goes_on_after_the_tables_were_migrated_to_a_newer_version(
    database: Database, files: list[Path]
) -> None:
    batch_id = submit(database, files)
    screener = Screener(database, WorkerSettings())
    with database.write() as session:
        # A later migration may do this while old workers are restarted one by one.
        for table in ("images", "batches", "predictions", "cohorts", "models"):
            session.execute(text(f"ALTER TABLE {table} ADD COLUMN of_later INTEGER NOT NULL DEFAULT 0"))
        session.execute(text("CREATE TABLE later (id INTEGER PRIMARY KEY)"))
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    screener.screen(batch_id)
    assert set(outcomes(database).values()) == {ImageState.DONE}


def test_a_batch_keeps_its_model_when_another_becomes_champion(
    database: Database, model: Model, other_artefact: Path, files: list[Path]
) -> None:
    batch_id = submit(database, files)
    other = import_model(database, other_artefact)
    with database.write() as session:
        promote(session, other.name)
    Screener(database, WorkerSettings()).screen(batch_id)
    with database.read() as session:
        assert set(session.scalars(select(Prediction.model_id))) == {model.id}
