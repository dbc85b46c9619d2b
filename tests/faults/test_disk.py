"""A full or read-only disk: a clear error, no partial file, and work resumes once there is room."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select

from db.atomic import DiskFull
from db.engine import Database
from db.jobs.batches import new_batch
from db.models.registry import champion, ensure_champion, import_model
from db.models.store import CARD_FILE, WEIGHTS_FILE, read_card
from db.states import BatchState
from db.tables import Batch, Image, Model, Prediction
from db.transitions import ImageChange
from db.upkeep.migrate import upgrade
from scheduler.exports.results import write_results
from scheduler.ingest import open_source
from scheduler.ingest.pseudonym import ensure_site_key
from scheduler.submit import submit
from tests.commands import run
from tests.faults.disk import Disk, small_disk
from tests.faults.invariant import check
from tests.faults.system import running_system
from tests.pictures import save_film
from tests.waiting import wait_for
from worker.runtime.torch.artifact import write_artifact
from worker.screening.batch import Screener
from worker.settings import WorkerSettings

IMAGES = 300


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """Keep the data directory on a small disk, and the models outside it."""
    with small_disk(tmp_path / "disk", mebibytes=24) as small:
        monkeypatch.setenv("PNEUMOSCREEN_HOME", str(small.folder / "home"))
        monkeypatch.setenv("PNEUMOSCREEN_MODELS_FOLDER", str(tmp_path / "models"))
        yield small


@pytest.fixture
def job_table(disk: Disk, artefact: Path) -> Iterator[Database]:
    database = Database()
    upgrade(database)
    ensure_champion(database, artefact)
    yield database
    database.close()


@pytest.fixture
def x_rays(tmp_path: Path) -> Path:
    folder = tmp_path / "x-rays"
    folder.mkdir()
    for number in range(IMAGES):
        save_film(folder / f"{number}.png", number)
    return folder


def count(database: Database, what: type[Image | Prediction | Model]) -> int:
    with database.read() as session:
        return session.scalars(select(func.count()).select_from(what)).one()


@pytest.mark.usefixtures("job_table")
def test_a_disk_full_at_the_first_start_gives_an_error_and_no_partial_key(disk: Disk, x_rays: Path) -> None:
    key = disk.folder / "home" / "site.key"
    disk.fill()
    said = run("submit", str(x_rays), "--cohort", "trial", expect=2).stderr
    assert "error [disk-full]" in said
    assert not key.exists()
    assert list(key.parent.glob(".*.partial")) == []
    disk.make_room()
    run("submit", str(x_rays), "--cohort", "trial")
    assert key.stat().st_size == 32


def test_a_disk_full_at_ingest_loses_no_image(
    disk: Disk, job_table: Database, x_rays: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PNEUMOSCREEN_INGEST_IMAGES", "20")
    submitting = ("submit", str(x_rays), "--cohort", "trial")
    ensure_site_key(job_table)  # as after an earlier start
    disk.fill()
    said = run(*submitting, expect=2).stderr
    assert "error [database-full]" in said
    assert len(said.splitlines()) == 1
    check(job_table)
    disk.make_room()
    run(*submitting)
    run(*submitting)
    assert count(job_table, Image) == IMAGES
    check(job_table)


def test_a_disk_full_at_write_back_delays_the_results(
    disk: Disk, job_table: Database, x_rays: Path, caplog: pytest.LogCaptureFixture
) -> None:
    submit(job_table, open_source(str(x_rays)), name="trial")
    with job_table.write() as session:
        image_ids = session.scalars(select(Image.id)).all()
        batch_id = new_batch(
            session, 1, champion(session).id, Image.id.in_(image_ids), len(image_ids), ImageChange.CUT
        )
    worker = threading.Thread(
        target=Screener(job_table, WorkerSettings(lease_seconds=60)).screen, args=(batch_id,)
    )
    worker.start()
    wait_for(lambda: state(job_table, batch_id) is BatchState.RUNNING)
    disk.fill()
    wait_for(lambda: f"results of batch {batch_id}: database-full; trying again" in caplog.text)
    assert worker.is_alive()
    disk.make_room()
    worker.join(60)
    assert state(job_table, batch_id) is BatchState.DONE
    assert count(job_table, Prediction) == IMAGES
    check(job_table, ended=True)


def state(database: Database, batch_id: int) -> BatchState:
    with database.read() as session:
        return session.get_one(Batch, batch_id).state


def test_a_disk_full_at_a_model_import_leaves_no_partial_model(
    disk: Disk, job_table: Database, other_artefact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = disk.folder / "models"
    monkeypatch.setenv("PNEUMOSCREEN_MODELS_FOLDER", str(models))
    disk.fill()
    assert "error [disk-full]" in run("models", "import", str(other_artefact), expect=2).stderr
    assert list(models.glob("*")) == [], "a part of a model was left"
    assert count(job_table, Model) == 1
    weights = (other_artefact / WEIGHTS_FILE).read_bytes()
    with pytest.raises(DiskFull):
        write_artifact(models / "candidate", read_card(other_artefact), weights)
    assert not (models / "candidate" / CARD_FILE).exists(), "a partial model looks complete"
    disk.make_room()
    run("models", "import", str(other_artefact))
    assert import_model(job_table, other_artefact).name == other_artefact.name
    assert count(job_table, Model) == 2


def test_a_disk_full_at_an_export_leaves_no_partial_file(
    disk: Disk, job_table: Database, x_rays: Path
) -> None:
    submit(job_table, open_source(str(x_rays)), name="trial")
    out = disk.folder / "results.csv"
    disk.fill()
    with pytest.raises(DiskFull):
        write_results(job_table, "trial", out)
    assert {one.name for one in disk.folder.iterdir()} == {"home", "ballast"}
    disk.make_room()
    assert write_results(job_table, "trial", out) == IMAGES


def test_a_read_only_disk_gives_one_error_line_and_loses_no_image(
    disk: Disk, job_table: Database, x_rays: Path
) -> None:
    submitting = ("submit", str(x_rays), "--cohort", "trial")
    job_table.close()
    disk.lock(locked=True)
    said = run(*submitting, expect=2).stderr
    assert "error [database-" in said
    assert len(said.splitlines()) == 1
    disk.lock(locked=False)
    run(*submitting)
    assert count(job_table, Image) == IMAGES


@pytest.mark.long
def test_the_stack_resumes_work_after_its_disk_was_full(
    disk: Disk, artefact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{disk.folder / 'home' / 'pneumoscreen.db'}"
    with running_system(url, artefact, tmp_path / "x-rays", monkeypatch, LEASE_SECONDS=4) as system:
        system.submit()
        wait_for(system.held)
        disk.fill()
        time.sleep(10)
        check(system.database)
        disk.make_room()
        back = time.monotonic()
        before = system.count("done")
        wait_for(lambda: system.count("done") > before)
        print(f"first batch {time.monotonic() - back:.1f} s after there was room")
        system.end()
