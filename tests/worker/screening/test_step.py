"""A forward step: memory that runs out, devices that fail, and equal probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sqlalchemy import select

from db.engine import Database
from db.queries.progress import progress
from db.tables import Batch, Image, Prediction
from tests.worker.screening.batches import pause_is_over, submit
from worker.runtime.protocol import DeviceUnusable, Output, Precision
from worker.runtime.torch.runtime import TorchRuntime
from worker.screening.batch import Screener
from worker.settings import WorkerSettings


@pytest.mark.usefixtures("model")
def test_an_image_has_the_same_probability_alone_and_in_a_batch_with_bad_files(
    database: Database, files: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    screener = Screener(database, WorkerSettings(forward_images=4))
    one, *others = (file for file in files if file.suffix in (".jpeg", ".png"))
    batches = ([one], [*others[:3], tmp_path / "bad.png", one], [others[3], one])
    for number, batch in enumerate(batches):
        screener.screen(submit(database, batch, f"cohort-{number}"))
    with database.read() as session:
        query = select(Prediction.probability).join(Image).where(Image.uri == str(one))
        found = session.scalars(query).all()
    assert len(found) == 3
    assert len(set(found)) == 1


@pytest.mark.usefixtures("model")
def test_if_memory_runs_out_passes_shrink_and_an_image_too_large_fails_alone(
    database: Database, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.pictures import read_picture

    real = TorchRuntime._forward
    culprit = read_picture(files[4]).pixels

    def little_memory(self: TorchRuntime, pixels: np.ndarray, precision: Precision) -> Output:
        if len(pixels) > 3 or any(np.array_equal(one, culprit) for one in pixels):
            raise torch.OutOfMemoryError
        return real(self, pixels, precision)

    monkeypatch.setattr(TorchRuntime, "_forward", little_memory)
    Screener(database, WorkerSettings()).screen(submit(database, files))
    with database.read() as session:
        rows = session.execute(select(Image.uri, Image.problem).where(Image.problem.is_not(None))).all()
    assert [tuple(row) for row in rows] == [(str(files[4]), "out-of-memory")]


@pytest.mark.parametrize("where", ["cuda", "cpu", "model"])
@pytest.mark.usefixtures("model")
def test_if_the_device_fails_the_batch_waits_and_no_image_fails(
    where: str, database: Database, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    says = {
        "cuda": RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with ..."),
        "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        "model": torch.OutOfMemoryError("CUDA out of memory."),
    }

    def fails(self: TorchRuntime | torch.nn.Module, *_: Any, **__: Any) -> Any:
        raise says[where]

    forward = TorchRuntime.forward

    def on_cuda(self: TorchRuntime, *arguments: Any) -> Any:
        self.device = torch.device("cuda")
        return forward(self, *arguments)

    batch_id, screener = submit(database, files), Screener(database, WorkerSettings())
    with monkeypatch.context() as patch:
        if where == "cuda":
            patch.setattr(TorchRuntime, "forward", on_cuda)
        patch.setattr(*((torch.nn.Module, "to") if where == "model" else (TorchRuntime, "_forward")), fails)
        with pytest.raises(DeviceUnusable) as caught:
            screener.screen(batch_id)
    assert caught.value.detail == str(says[where]).splitlines()[0]
    assert screener.device.is_lost == (where == "cuda")
    with database.read() as session:
        now = progress(session)[0]
        assert (now.queued, now.failed, now.waits_for) == (len(files), 0, "device-unusable")
        assert session.get_one(Batch, batch_id).attempt == 0
    pause_is_over(database)
    Screener(database, WorkerSettings()).screen(batch_id)
    with database.read() as session:
        now = progress(session)[0]
        assert (now.done, now.waits_for) == (len(files), None)
