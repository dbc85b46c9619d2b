"""A new runtime in one module: the one that is defined here screens a batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from db.engine import Database
from db.models.card import ModelCard
from db.tables import Prediction
from tests.worker.screening.batches import submit
from worker.runtime.loading import RUNTIMES
from worker.runtime.protocol import Output, PassTooLarge, Precision
from worker.screening.batch import Screener
from worker.settings import WorkerSettings


class Brightness:
    """A runtime without a model: the brighter a picture, the likelier its first class."""

    name = "toy-1/cpu"
    precisions = frozenset({Precision.FP32})
    depends_on_pass_size = False

    def __init__(self, card: ModelCard) -> None:
        self.card = card

    def forward(self, pictures: np.ndarray, precision: Precision) -> Output:
        if len(pictures) > 2:
            raise PassTooLarge
        bright = pictures.mean(axis=(1, 2, 3)) / 255
        return Output(np.stack([bright, 1 - bright], axis=1).astype(np.float32), np.zeros((len(pictures), 1)))

    def peak_memory(self) -> int | None:
        return 7


def load(card: ModelCard, weights: bytes, *, device: str | None) -> Brightness:
    assert weights
    return Brightness(card)


@pytest.mark.usefixtures("model")
def test_a_new_runtime_screens_a_batch(
    database: Database, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RUNTIMES, "toy", __name__)
    files = sorted(path for path in phantoms.rglob("*") if path.is_file())
    Screener(database, WorkerSettings(forward_images=8), runtime="toy").screen(submit(database, files))
    with database.read() as session:
        rows = session.scalars(select(Prediction)).all()
    assert len(rows) == len(files)
    assert {(row.runtime, row.precision) for row in rows} == {("toy-1/cpu", "fp32")}
    assert len({row.probability for row in rows}) > 1
