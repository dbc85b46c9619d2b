"""The outcome of an image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydicom import dcmread
from sqlalchemy import select

from db.engine import Database
from db.tables import Batch, Model, Prediction
from tests.worker.screening.batches import outcomes, submit
from worker.runtime.loading import load_model
from worker.runtime.passes import outputs_of
from worker.runtime.protocol import Output, Precision
from worker.runtime.torch.runtime import TorchRuntime
from worker.screening.batch import Screener
from worker.settings import WorkerSettings


@pytest.mark.usefixtures("model")
def test_a_label_never_contradicts_the_probability_that_is_stored(
    database: Database, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with database.read() as session:
        threshold = session.scalars(select(Model.threshold)).one()
    near = [np.float32(threshold)]
    for _ in range(2):
        near = [np.nextafter(near[0], np.float32(0)), *near, np.nextafter(near[-1], np.float32(1))]

    def at_the_edge(self: TorchRuntime, pixels: np.ndarray, *_: object) -> Output:
        rows = np.zeros((len(pixels), 2), dtype=np.float32)
        column = self.card.positive_columns[0]
        rows[:, column] = np.resize(near, len(pixels))
        rows[:, 1 - column] = 1 - rows[:, column]
        return Output(rows, np.zeros((len(pixels), 1), dtype=np.float32))

    monkeypatch.setattr(TorchRuntime, "forward", at_the_edge)
    settings = WorkerSettings(precision="fp32", forward_images=len(near))
    Screener(database, settings).screen(submit(database, files))
    with database.read() as session:
        found = session.execute(select(Prediction.probability, Prediction.label, Prediction.threshold)).all()
    assert len({probability for probability, _, _ in found}) == len(near)
    assert {label for _, label, _ in found} == {"NORMAL", "PNEUMONIA"}
    assert all((probability >= edge) == (label == "PNEUMONIA") for probability, label, edge in found)


def test_the_stored_probability_is_that_of_the_class_named_pneumonia(
    database: Database, model: Model, artefact: Path, files: list[Path]
) -> None:
    from tests.pictures import read_picture

    settings = WorkerSettings(precision="fp32")
    Screener(database, settings).screen(submit(database, files[:3]))
    runtime = load_model(artefact, device="cpu")
    pictures = np.stack([read_picture(file).pixels for file in files[:3]])
    rows = outputs_of(runtime, pictures, size=settings.forward_images).probabilities
    column = model.card["classes"].index("PNEUMONIA")
    with database.read() as session:
        stored = session.scalars(select(Prediction.probability).order_by(Prediction.image_id)).all()
    if not torch.cuda.is_available():
        assert stored == [float(value) for value in rows[:, column]]
    assert stored == pytest.approx(rows[:, column], abs=1e-4)


@pytest.mark.usefixtures("model")
def test_a_batch_counts_what_the_headers_of_its_images_say(database: Database, folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    dicom = [file for file in files if file.read_bytes()[128:132] == b"DICM"]
    for file in dicom:
        dataset = dcmread(file)
        dataset.Manufacturer, dataset.PatientAge, dataset.ViewPosition = "Acme", "004Y", "AP"
        dataset.save_as(file)
    Screener(database, WorkerSettings()).screen(submit(database, files))
    with database.read() as session:
        profile = session.scalars(select(Batch.profile)).one()
    assert profile is not None
    others = len(files) - len(dicom)
    assert profile["counts"]["manufacturer"] == {"ACME": len(dicom), "unknown": others}
    assert profile["counts"]["age"] == {"1-5": len(dicom), "unknown": others}
    assert profile["counts"]["view"] == {"AP": len(dicom), "unknown": others}
    assert sum(profile["counts"]["probability"].values()) == len(files)


@pytest.mark.usefixtures("model")
def test_a_model_that_gives_no_number_fails_the_image_and_not_the_worker(
    database: Database, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(_: TorchRuntime, pixels: np.ndarray, *__: Precision) -> Output:
        return Output(*np.full((2, len(pixels), 2), np.nan, dtype=np.float32))

    monkeypatch.setattr(TorchRuntime, "forward", nothing)
    Screener(database, WorkerSettings()).screen(submit(database, files[:2]))
    assert set(outcomes(database).values()) == {"broken-model-output"}
