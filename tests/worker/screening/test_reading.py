"""Files of a batch that are missing, changed or broken."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from db.engine import Database
from db.jobs.problems import SourceAway
from db.queries.progress import progress
from db.tables import Image
from scheduler.ingest.sources.folder import FolderSource
from scheduler.submit import submit as scheduler_submit
from tests.worker.screening.batches import (
    by_path,
    cut,
    outcomes,
    pause_is_over,
    submit,
    submit_folder,
    try_again,
)
from worker.screening.batch import Screener
from worker.settings import WorkerSettings


@pytest.mark.usefixtures("model")
def test_bad_files_fail_alone(database: Database, files: list[Path], tmp_path: Path) -> None:
    bad = {"text.jpg": b"not an image", "empty.png": b"", "cut.jpeg": files[-1].read_bytes()[:2000]}
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    batch = [*files, *(tmp_path / name for name in bad), tmp_path / "gone.jpg"]
    Screener(database, WorkerSettings(forward_images=4)).screen(submit(database, batch))
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
def test_an_unforeseen_error_fails_its_image_alone(
    database: Database, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import worker.screening.reading as module

    real = module.read_bytes

    def breaks_on_the_third(path: str, *limits: Any) -> Any:
        if path == str(files[2]):
            raise ZeroDivisionError
        return real(path, *limits)

    monkeypatch.setattr(module, "read_bytes", breaks_on_the_third)
    Screener(database, WorkerSettings()).screen(submit(database, files[:5]))
    with database.read() as session:
        states = session.execute(select(Image.state, Image.problem).order_by(Image.id)).all()
    assert [tuple(row) for row in states] == [
        ("failed", "screening-failed") if index == 2 else ("done", None) for index in range(5)
    ]


@pytest.mark.usefixtures("model")
def test_a_source_that_vanishes_is_waited_for_and_no_image_fails(database: Database, folder: Path) -> None:
    batch_id = submit_folder(database, folder)
    for away in (folder.with_name("gone"), None):
        # After an unmount the folder is missing or empty.
        folder.rename(folder.with_name("elsewhere"))
        if away is None:
            folder.mkdir()
        with pytest.raises(SourceAway):
            Screener(database, WorkerSettings()).screen(batch_id)
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
    Screener(database, WorkerSettings()).screen(batch_id)
    with database.read() as session:
        now = progress(session)[0]
        assert (now.done, now.waits_for) == (10, None)


@pytest.mark.usefixtures("model")
def test_files_that_vanish_change_or_become_unreadable_fail_with_a_code_and_can_be_retried(
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
    Screener(database, WorkerSettings()).screen(batch_id)
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
    # The files that were put back have new dates; a retry accepts a file as it is now.
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
    Screener(database, WorkerSettings()).screen(batch_id)
    assert by_path(database)[first] == "file-changed"
    try_again(database)
    assert by_path(database)[first] == "file-changed"


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
    (tmp_path / "inbox" / "b/1.dcm.filepart").unlink()  # the copy is complete and has its final name
    screener = Screener(database, WorkerSettings())
    screener.screen(batch_id)
    while batch_ids := cut(database):
        for batch_id in batch_ids:
            screener.screen(batch_id)
    with database.read() as session:
        (now,) = progress(session)
    assert (now.done, now.problems) == (1, {"corrupt-image": 1, "file-vanished": 1})


@pytest.mark.usefixtures("model")
def test_a_source_whose_name_is_not_text_is_screened_and_waited_for(
    database: Database, phantoms: Path, tmp_path: Path
) -> None:
    source = Path(os.fsdecode(os.fsencode(tmp_path) + b"/ward-\xff"))
    shutil.copytree(phantoms / "png", source)
    taken = scheduler_submit(database, FolderSource(source), name="trial")
    (batch_id,) = cut(database)
    screener = Screener(database, WorkerSettings())
    away = source.rename(source.with_name("away"))
    with pytest.raises(SourceAway):
        screener.screen(batch_id)
    away.rename(source)
    pause_is_over(database)
    (batch_id,) = cut(database)
    screener.screen(batch_id)
    with database.read() as session:
        assert progress(session)[0].done == taken.new > 0
