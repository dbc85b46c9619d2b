"""A batch's way through the worker."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sqlalchemy import select, text, update

from db.engine import Database
from db.jobs.batches import cut_batches
from db.jobs.claims import claim, expire
from db.jobs.cohorts import close_ingest, find_cohort, open_cohort, retry
from db.jobs.images import NewImage, add_images
from db.jobs.problems import SourceAway
from db.models.card import WEIGHTS_FILE, ModelDigestMismatch, ModelMissing, ModelPreprocessingMismatch
from db.models.registry import import_model, promote
from db.queries.progress import progress
from db.states import BatchState, ImageState
from db.tables import Batch, Image, Model, Prediction, Source
from scheduler.ingest.folder import FolderSource
from scheduler.submit import submit as scheduler_submit
from worker.imaging import PREPROCESSING
from worker.runtime.torch import DeviceUnusable, Precision, ResidentLearner
from worker.screening.batch import Pipeline
from worker.settings import WorkerSettings


def submit(database: Database, files: list[Path], name: str = "trial") -> int:
    """Take files in and cut them into one batch."""
    with database.write() as session:
        cohort = open_cohort(session, name, source="/data")
        add_images(session, cohort.id, [NewImage(uri=str(file)) for file in files])
        close_ingest(session, cohort.id)
        (batch_id,) = cut_batches(session, cohort.id, batch_images=256, in_flight=9)
        return batch_id


def pause_is_over(database: Database) -> None:
    """Let what waits be tried again now."""
    with database.write() as session:
        session.execute(update(Batch).values(claim_after=None))
        session.execute(update(Source).values(try_at=1.0))


def outcomes(database: Database) -> dict[str, str | None]:
    with database.read() as session:
        rows = session.execute(select(Image.uri, Image.state, Image.problem)).all()
    return {Path(uri).name: problem or state for uri, state, problem in rows}


@pytest.fixture
def files(phantoms: Path) -> list[Path]:
    return sorted(path for path in phantoms.rglob("*") if path.is_file())


@pytest.mark.usefixtures("model")
def test_every_kind_of_phantom_is_screened(database: Database, files: list[Path]) -> None:
    Pipeline(database, WorkerSettings(forward_images=4)).screen(submit(database, files))
    assert len(files) == 10
    with database.read() as session:
        assert [image.state for image in session.scalars(select(Image))] == [ImageState.DONE] * 10
        assert session.scalars(select(Batch.state)).all() == [BatchState.DONE]


def test_a_prediction_holds_what_explains_it(database: Database, model: Model, files: list[Path]) -> None:
    import hashlib

    Pipeline(database, WorkerSettings()).screen(submit(database, files[:1]))
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
def test_a_label_never_contradicts_the_probability_that_is_stored(
    database: Database, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with database.read() as session:
        threshold = session.scalars(select(Model.threshold)).one()
    near = [np.float32(threshold)]
    for _ in range(2):
        near = [np.nextafter(near[0], np.float32(0)), *near, np.nextafter(near[-1], np.float32(1))]

    def at_the_edge(self: ResidentLearner, pixels: np.ndarray, *_: object) -> np.ndarray:
        rows = np.zeros((len(pixels), 2), dtype=np.float32)
        column = self.card.positive_columns[0]
        rows[:, column] = np.resize(near, len(pixels))
        rows[:, 1 - column] = 1 - rows[:, column]
        return rows

    monkeypatch.setattr(ResidentLearner, "probabilities", at_the_edge)
    Pipeline(database, WorkerSettings(precision="fp32")).screen(submit(database, files))
    with database.read() as session:
        found = session.execute(select(Prediction.probability, Prediction.label, Prediction.threshold)).all()
    assert len({probability for probability, _, _ in found}) == len(near)
    assert {label for _, label, _ in found} == {"NORMAL", "PNEUMONIA"}
    assert all((probability >= edge) == (label == "PNEUMONIA") for probability, label, edge in found)


@pytest.mark.usefixtures("model")
def test_an_image_has_the_same_probability_alone_and_in_a_batch_with_bad_files(
    database: Database, files: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    pipeline = Pipeline(database, WorkerSettings(forward_images=4))
    one, *others = (file for file in files if file.suffix in (".jpeg", ".png"))
    batches = ([one], [*others[:3], tmp_path / "bad.png", one], [others[3], one])
    for number, batch in enumerate(batches):
        pipeline.screen(submit(database, batch, f"cohort-{number}"))
    with database.read() as session:
        query = select(Prediction.probability).join(Image).where(Image.uri == str(one))
        found = session.scalars(query).all()
    assert len(found) == 3
    assert len(set(found)) == 1


def test_the_probability_is_that_of_pneumonia_by_name(
    database: Database, model: Model, artefact: Path, files: list[Path]
) -> None:
    from worker.imaging import read_picture

    Pipeline(database, WorkerSettings(precision="fp32")).screen(submit(database, files[:3]))
    learner = ResidentLearner.load(artefact, device=torch.device("cpu"))
    rows = learner.probabilities(np.stack([read_picture(file).pixels for file in files[:3]]))
    column = model.card["classes"].index("PNEUMONIA")
    with database.read() as session:
        stored = session.scalars(select(Prediction.probability).order_by(Prediction.image_id)).all()
    if not torch.cuda.is_available():
        assert stored == [float(value) for value in rows[:, column]]
    assert stored == pytest.approx(rows[:, column], abs=1e-4)


@pytest.mark.usefixtures("model")
def test_bad_files_cost_themselves_alone(database: Database, files: list[Path], tmp_path: Path) -> None:
    bad = {"text.jpg": b"not an image", "empty.png": b"", "cut.jpeg": files[-1].read_bytes()[:2000]}
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    batch = [*files, *(tmp_path / name for name in bad), tmp_path / "gone.jpg"]
    Pipeline(database, WorkerSettings(forward_images=4)).screen(submit(database, batch))
    found = outcomes(database)
    assert {name: found[name] for name in (*bad, "gone.jpg")} == {
        "text.jpg": "not-an-image",
        "empty.png": "empty-file",
        "cut.jpeg": "corrupt-image",
        "gone.jpg": "file-vanished",
    }
    with database.read() as session:
        assert progress(session)[0].done == len(files)


@pytest.mark.usefixtures("model")
def test_an_unforeseen_error_costs_its_image_alone(
    database: Database, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import worker.screening.batch as module

    real = module.read_bytes

    def breaks_on_the_third(path: Path, *limits: Any) -> Any:
        if path == files[2]:
            raise ZeroDivisionError
        return real(path, *limits)

    monkeypatch.setattr(module, "read_bytes", breaks_on_the_third)
    Pipeline(database, WorkerSettings()).screen(submit(database, files[:5]))
    with database.read() as session:
        states = session.execute(select(Image.state, Image.problem).order_by(Image.id)).all()
    assert [tuple(row) for row in states] == [
        ("failed", "screening-failed") if index == 2 else ("done", None) for index in range(5)
    ]


@pytest.mark.usefixtures("model")
def test_where_memory_runs_out_passes_shrink_and_an_image_too_large_fails_alone(
    database: Database, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker.imaging import read_picture

    real = ResidentLearner.probabilities
    culprit = read_picture(files[4]).pixels

    def little_memory(
        self: ResidentLearner, pixels: np.ndarray, precision: Precision, size: int
    ) -> np.ndarray:
        if size > 3 or any(np.array_equal(one, culprit) for one in pixels):
            raise torch.OutOfMemoryError
        return real(self, pixels, precision, size)

    monkeypatch.setattr(ResidentLearner, "probabilities", little_memory)
    Pipeline(database, WorkerSettings()).screen(submit(database, files))
    with database.read() as session:
        rows = session.execute(select(Image.uri, Image.problem).where(Image.problem.is_not(None))).all()
    assert [tuple(row) for row in rows] == [(str(files[4]), "out-of-memory")]


@pytest.mark.parametrize("where", ["cuda", "cpu", "model"])
@pytest.mark.usefixtures("model")
def test_where_the_device_fails_the_batch_waits_and_no_image_fails(
    where: str, database: Database, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    says = {
        "cuda": RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with ..."),
        "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        "model": torch.OutOfMemoryError("CUDA out of memory."),
    }

    def fails(self: ResidentLearner | torch.nn.Module, *_: Any, **__: Any) -> Any:
        if where == "cuda":
            self.device = torch.device("cuda")
        raise says[where]

    batch_id, pipeline = submit(database, files), Pipeline(database, WorkerSettings())
    with monkeypatch.context() as patch:
        patch.setattr(
            *((torch.nn.Module, "to") if where == "model" else (ResidentLearner, "probabilities")), fails
        )
        with pytest.raises(DeviceUnusable) as caught:
            pipeline.screen(batch_id)
    assert caught.value.detail == str(says[where]).splitlines()[0]
    assert pipeline.lost_gpu == (where == "cuda")
    with database.read() as session:
        now = progress(session)[0]
        assert (now.queued, now.failed, now.waits_for) == (len(files), 0, "device-unusable")
        assert session.get_one(Batch, batch_id).attempt == 0
    pause_is_over(database)
    Pipeline(database, WorkerSettings()).screen(batch_id)
    with database.read() as session:
        now = progress(session)[0]
        assert (now.done, now.waits_for) == (len(files), None)


@pytest.mark.usefixtures("model")
def test_a_model_that_gives_no_number_fails_the_image_and_not_the_worker(
    database: Database, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(_: ResidentLearner, pixels: np.ndarray, *__: Precision) -> np.ndarray:
        return np.full((len(pixels), 2), np.nan, dtype=np.float32)

    monkeypatch.setattr(ResidentLearner, "probabilities", nothing)
    Pipeline(database, WorkerSettings()).screen(submit(database, files[:2]))
    assert set(outcomes(database).values()) == {"broken-model-output"}


def test_a_swapped_model_is_refused_and_the_batch_waits(
    database: Database, model: Model, files: list[Path]
) -> None:
    weights = database.models_folder / model.name / WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:-1])
    batch_id = submit(database, files)
    with pytest.raises(ModelDigestMismatch):
        Pipeline(database, WorkerSettings()).screen(batch_id)
    with database.read() as session:
        assert session.get_one(Batch, batch_id).state is BatchState.QUEUED
        assert progress(session)[0].queued == len(files)


@pytest.mark.usefixtures("model")
def test_the_lease_of_a_slow_batch_is_kept(
    database: Database, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ResidentLearner.probabilities

    def slow(self: ResidentLearner, pixels: np.ndarray, *precision: Precision) -> np.ndarray:
        for _ in range(10):
            time.sleep(0.2)
            with database.write() as session:
                assert expire(session) == 0
        return real(self, pixels, *precision)

    monkeypatch.setattr(ResidentLearner, "probabilities", slow)
    Pipeline(database, WorkerSettings(lease_seconds=1)).screen(submit(database, files[:3]))
    assert set(outcomes(database).values()) == {"done"}


@pytest.mark.usefixtures("model")
def test_a_worker_whose_lease_was_taken_stops_and_writes_nothing(
    database: Database, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ResidentLearner.probabilities

    def robbed(self: ResidentLearner, pixels: np.ndarray, *precision: Precision) -> np.ndarray:
        with database.write() as session:
            row = session.get_one(Batch, batch_id)
            row.lease_token = "somebody else's"  # noqa: S105  (it opens nothing)
        return real(self, pixels, *precision)

    batch_id = submit(database, files[:3])
    monkeypatch.setattr(ResidentLearner, "probabilities", robbed)
    Pipeline(database, WorkerSettings()).screen(batch_id)
    assert set(outcomes(database).values()) == {"running"}


@pytest.mark.usefixtures("model")
def test_a_batch_that_somebody_holds_is_left_alone(database: Database, files: list[Path]) -> None:
    batch_id = submit(database, files)
    with database.write() as session:
        assert claim(session, batch_id, owner="other", lease_seconds=60)
    Pipeline(database, WorkerSettings()).screen(batch_id)
    with database.read() as session:
        assert session.get_one(Batch, batch_id).lease_owner == "other"
        assert progress(session)[0].done == 0


@pytest.mark.usefixtures("model")
def test_two_threads_share_one_learner(database: Database, files: list[Path]) -> None:
    with database.write() as session:
        cohort = open_cohort(session, "trial", source="/data")
        add_images(session, cohort.id, [NewImage(uri=str(f), frame=n) for n in range(4) for f in files])
        batch_ids = cut_batches(session, cohort.id, batch_images=256, in_flight=9)
    pipeline = Pipeline(database, WorkerSettings())
    threads = [threading.Thread(target=pipeline.screen, args=(batch_id,)) for batch_id in batch_ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(batch_ids) == 3
    with database.read() as session:
        assert progress(session)[0].done == 40


@pytest.mark.usefixtures("model")
def test_a_worker_goes_on_beside_tables_of_a_newer_version(database: Database, files: list[Path]) -> None:
    batch_id = submit(database, files)
    pipeline = Pipeline(database, WorkerSettings())
    with database.write() as session:
        # What a later migration may do while old workers are restarted one by one.
        for table in ("images", "batches", "predictions", "cohorts", "models"):
            session.execute(text(f"ALTER TABLE {table} ADD COLUMN of_later INTEGER NOT NULL DEFAULT 0"))
        session.execute(text("CREATE TABLE later (id INTEGER PRIMARY KEY)"))
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    pipeline.screen(batch_id)
    assert set(outcomes(database).values()) == {ImageState.DONE}


def submit_folder(database: Database, folder: Path) -> int:
    """Take a folder in as `pneumoscreen submit` does, and cut it into one batch."""
    with database.write() as session:
        cohort = open_cohort(session, "trial", source=str(folder))
        add_images(session, cohort.id, list(FolderSource(folder).walk()))
        close_ingest(session, cohort.id)
        (batch_id,) = cut_batches(session, cohort.id, batch_images=256, in_flight=9)
        return batch_id


def by_path(database: Database) -> dict[Path, str]:
    with database.read() as session:
        rows = session.execute(select(Image.uri, Image.state, Image.problem)).all()
    return {Path(uri): problem or state for uri, state, problem in rows}


def try_again(database: Database) -> None:
    """Retry what failed, and screen it."""
    pipeline = Pipeline(database, WorkerSettings())
    with database.write() as session:
        retry(session, find_cohort(session, "trial"))
    while batch_ids := cut(database):
        for batch_id in batch_ids:
            pipeline.screen(batch_id)


def cut(database: Database) -> list[int]:
    with database.write() as session:
        return cut_batches(session, find_cohort(session, "trial").id, batch_images=256, in_flight=9)


@pytest.fixture
def folder(phantoms: Path, tmp_path: Path) -> Path:
    """Copy the phantoms to where they may be changed."""
    shutil.copytree(phantoms, tmp_path / "ward")
    return tmp_path / "ward"


@pytest.mark.usefixtures("model")
def test_a_source_that_vanishes_is_waited_for_and_fails_nothing(database: Database, folder: Path) -> None:
    batch_id = submit_folder(database, folder)
    for away in (folder.with_name("gone"), None):
        # A mount that goes leaves nothing behind, or an empty folder.
        folder.rename(folder.with_name("elsewhere"))
        if away is None:
            folder.mkdir()
        with pytest.raises(SourceAway):
            Pipeline(database, WorkerSettings()).screen(batch_id)
        with database.read() as session:
            now = progress(session)[0]
            assert (now.pending, now.failed, now.waits_for) == (10, 0, "source-away")
            assert now.waits_since is not None
        assert cut(database) == [], "it was tried again at once"
        if away is None:
            folder.rmdir()
        folder.with_name("elsewhere").rename(folder)
        pause_is_over(database)
        (batch_id,) = cut(database)
    Pipeline(database, WorkerSettings()).screen(batch_id)
    with database.read() as session:
        now = progress(session)[0]
        assert (now.done, now.waits_for) == (10, None)


@pytest.mark.usefixtures("model")
def test_files_that_vanish_change_or_close_fail_with_a_code_and_can_be_retried(
    database: Database, folder: Path
) -> None:
    batch_id = submit_folder(database, folder)
    vanished, changed, touched, closed = sorted(path for path in folder.rglob("*") if path.is_file())[:4]
    kept = vanished.read_bytes()
    vanished.unlink()
    changed.write_bytes(changed.read_bytes() + b"\0")
    os.utime(touched, (1, 1))
    content = closed.read_bytes()
    closed.unlink()
    closed.mkdir()
    Pipeline(database, WorkerSettings()).screen(batch_id)
    found = by_path(database)
    assert {path: found.pop(path) for path in (vanished, changed, touched, closed)} == {
        vanished: "file-vanished",
        changed: "file-changed",
        touched: "file-changed",
        closed: "file-unreadable",
    }
    assert set(found.values()) == {"done"}
    closed.rmdir()
    closed.write_bytes(content)
    vanished.write_bytes(kept)
    try_again(database)
    # What was put back has a new date, and is taken as it is by a retry.
    try_again(database)
    assert set(outcomes(database).values()) == {"done"}


@pytest.mark.usefixtures("model")
def test_a_file_that_holds_another_instance_is_not_screened_under_the_first_ones_name(
    database: Database, folder: Path
) -> None:
    batch_id = submit_folder(database, folder)
    with database.read() as session:
        uris = session.scalars(select(Image.uri).where(Image.instance_uid.is_not(None))).all()
    first, second = (Path(uri) for uri in uris[:2])
    first.write_bytes(second.read_bytes())
    Pipeline(database, WorkerSettings()).screen(batch_id)
    assert by_path(database)[first] == "file-changed"
    try_again(database)
    assert by_path(database)[first] == "file-changed"


def test_a_batch_whose_model_is_gone_is_handed_out_anew_once_another_is_champion(
    database: Database, model: Model, other_artefact: Path, files: list[Path]
) -> None:
    batch_id = submit(database, files)
    shutil.rmtree(database.models_folder / model.name)
    with pytest.raises(ModelMissing):
        Pipeline(database, WorkerSettings()).screen(batch_id)
    with database.read() as session:
        assert progress(session)[0].waits_for == "model-missing"
    assert not Pipeline(database, WorkerSettings()).screen(batch_id), "it was tried again at once"
    pause_is_over(database)
    other = import_model(database, other_artefact)
    with database.write() as session:
        promote(session, other.name)
    with pytest.raises(ModelMissing):
        Pipeline(database, WorkerSettings()).screen(batch_id)
    with database.write() as session:
        assert session.get_one(Batch, batch_id).state is BatchState.CANCELLED
        cohort_id = find_cohort(session, "trial").id
        (anew,) = cut_batches(session, cohort_id, batch_images=256, in_flight=9)
    Pipeline(database, WorkerSettings()).screen(anew)
    with database.read() as session:
        assert set(session.scalars(select(Prediction.model_id))) == {other.id}
        assert (progress(session)[0].done, progress(session)[0].waits_for) == (len(files), None)


def test_a_batch_keeps_its_model_when_another_becomes_champion(
    database: Database, model: Model, other_artefact: Path, files: list[Path]
) -> None:
    batch_id = submit(database, files)
    other = import_model(database, other_artefact)
    with database.write() as session:
        promote(session, other.name)
    Pipeline(database, WorkerSettings()).screen(batch_id)
    with database.read() as session:
        assert set(session.scalars(select(Prediction.model_id))) == {model.id}


def test_a_model_of_another_preprocessing_screens_nothing_and_its_cohort_says_so(
    database: Database, model: Model, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = submit(database, files)
    with monkeypatch.context() as earlier:
        # As after an upgrade: the model was registered with the version before.
        earlier.setattr("db.models.card.PREPROCESSING", "another/2")
        with pytest.raises(ModelPreprocessingMismatch):
            Pipeline(database, WorkerSettings()).screen(batch_id)
        with database.read() as session:
            assert progress(session)[0].waits_for == "model-preprocessing-mismatch"
            assert session.scalars(select(Prediction)).all() == []
            assert set(outcomes(database).values()) == {"queued"}
    pause_is_over(database)
    Pipeline(database, WorkerSettings()).screen(batch_id)
    assert set(outcomes(database).values()) == {"done"}


@pytest.mark.parametrize("damage", ["missing", "truncated", "swapped"])
def test_a_model_that_was_damaged_is_mended_by_importing_it_again(
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
        Pipeline(database, WorkerSettings()).screen(batch_id)
    import_model(database, artefact)
    pause_is_over(database)
    Pipeline(database, WorkerSettings()).screen(batch_id)
    assert set(outcomes(database).values()) == {"done"}


@pytest.mark.usefixtures("model")
def test_an_intact_copy_is_screened_when_the_first_one_is_truncated(
    database: Database, phantoms: Path, tmp_path: Path
) -> None:
    intact = next(path for path in sorted((phantoms / "dicom").rglob("*")) if path.is_file()).read_bytes()
    names = {"a/1.dcm": intact[: len(intact) // 2], "b/1.dcm.filepart": intact, "c/1.dcm": intact}
    for name, content in names.items():
        (tmp_path / "inbox" / name).parent.mkdir(parents=True)
        (tmp_path / "inbox" / name).write_bytes(content)
    batch_id = submit_folder(database, tmp_path / "inbox")
    (tmp_path / "inbox" / "b/1.dcm.filepart").unlink()  # the copy is complete, and has its name now
    pipeline = Pipeline(database, WorkerSettings())
    pipeline.screen(batch_id)
    while batch_ids := cut(database):
        for batch_id in batch_ids:
            pipeline.screen(batch_id)
    with database.read() as session:
        (now,) = progress(session)
    assert (now.done, now.problems) == (1, {"corrupt-image": 1, "file-vanished": 1})


@pytest.mark.usefixtures("model")
def test_a_source_whose_name_is_no_text_is_screened_and_waited_for(
    database: Database, phantoms: Path, tmp_path: Path
) -> None:
    source = Path(os.fsdecode(os.fsencode(tmp_path) + b"/ward-\xff"))
    shutil.copytree(phantoms / "png", source)
    taken = scheduler_submit(database, FolderSource(source), name="trial")
    (batch_id,) = cut(database)
    pipeline = Pipeline(database, WorkerSettings())
    away = source.rename(source.with_name("away"))
    with pytest.raises(SourceAway):
        pipeline.screen(batch_id)
    away.rename(source)
    pause_is_over(database)
    pipeline.screen(batch_id)
    with database.read() as session:
        assert progress(session)[0].done == taken.new > 0
