"""Deleted folders and unavailable sources: neither holds up other images."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import select, update

from db.engine import Database
from db.jobs.batches import cohorts_to_dispatch, cut_batches
from db.jobs.cohorts import mark_ready, open_cohort
from db.jobs.images import add_images
from db.jobs.problems import SourceAway
from db.queries.progress import progress
from db.states import BatchState
from db.tables import Batch, Image, Source
from scheduler.ingest import open_source
from scheduler.ingest.walk import Walk
from scheduler.submit import submit
from tests.pictures import save_film
from worker.screening.batch import Screener
from worker.settings import WorkerSettings


def folder_of(parent: Path, *inside: str) -> Path:
    """Make a folder whose subfolders hold ten images each."""
    for name in inside:
        (parent / name).mkdir(parents=True)
        for number in range(10):
            save_film(parent / name / f"{number}.png", number)
    return parent


def screen_all(database: Database) -> None:
    """Dispatch and screen, two batches at a time, until no batch is queued."""
    pipeline = Screener(database, WorkerSettings())
    while True:
        with database.write() as session:
            for cohort_id in cohorts_to_dispatch(session):
                cut_batches(session, cohort_id, batch_images=4, in_flight=2)
            queued = session.scalars(select(Batch.id).where(Batch.state == BatchState.QUEUED)).all()
        if not queued:
            return
        for batch_id in queued:
            try:
                pipeline.screen(batch_id)
            except SourceAway:
                continue


def outcomes(database: Database, *, below: Path) -> Counter[str]:
    """Count states or problems of the images below a folder."""
    with database.read() as session:
        rows = session.execute(select(Image.uri, Image.state, Image.problem)).all()
    return Counter(row.problem or str(row.state) for row in rows if row.uri.startswith(str(below)))


@pytest.mark.parametrize("name", ["gone", os.fsdecode(b"gone-\xff")])
def test_a_folder_that_was_deleted_below_a_source_fails_its_own_images_alone(
    name: str, job_table: Database, tmp_path: Path
) -> None:
    first = folder_of(tmp_path / "first", "kept", name)
    second = folder_of(tmp_path / "second", "kept", name)
    for source in (first, second):
        submit(job_table, open_source(str(source)), name="trial")
        shutil.rmtree(source / name)
    screen_all(job_table)
    with job_table.read() as session:
        now = progress(session)[0]
    assert (now.finished, now.waits_for, now.done) == (True, None, 20)
    assert now.problems == {"file-vanished": 20}


def test_a_source_that_is_one_file_and_was_deleted_fails_alone(job_table: Database, tmp_path: Path) -> None:
    first = folder_of(tmp_path / "first", "ward")
    second = folder_of(tmp_path / "second", "ward")
    deleted, kept, *_ = sorted(path for path in second.rglob("*") if path.is_file())
    for source in (first, deleted, kept):
        submit(job_table, open_source(str(source)), name="trial")
    deleted.unlink()
    screen_all(job_table)
    with job_table.read() as session:
        now = progress(session)[0]
        sources = session.scalars(select(Source.uri).order_by(Source.id)).all()
    assert sources == [str(first), str(kept.parent)], "files of one folder are one source"
    assert (now.finished, now.done, now.problems) == (True, 11, {"file-vanished": 1})


@pytest.mark.usefixtures("model")
def test_a_source_that_is_unavailable_holds_up_no_other_and_says_since_when(
    database: Database, tmp_path: Path
) -> None:
    away = folder_of(tmp_path / "away", "a", "b")
    there = folder_of(tmp_path / "there", "a", "b")
    for source in (away, there):
        submit(database, open_source(str(source)), name="trial")
    away.rename(tmp_path / "elsewhere")
    screen_all(database)
    assert outcomes(database, below=there) == {"done": 20}
    assert outcomes(database, below=away) == {"pending": 20}
    with database.read() as session:
        now = progress(session)[0]
        since, try_at = session.execute(select(Source.waits_since, Source.try_at).where(Source.id == 1)).one()
    assert (now.waits_for, now.waits_since) == ("source-away", since)
    assert try_at == pytest.approx(since + 30, abs=5)
    (tmp_path / "elsewhere").rename(away)
    with database.write() as session:
        session.execute(update(Source).values(try_at=1.0))
    screen_all(database)
    with database.read() as session:
        now = progress(session)[0]
    assert (now.finished, now.done, now.waits_for, now.waits_since) == (True, 40, None, None)


def test_images_of_an_earlier_version_wait_for_their_source(job_table: Database, tmp_path: Path) -> None:
    first, second = (folder_of(tmp_path / name, "ward") for name in ("first", "second"))
    for source in (first, second):
        with job_table.write() as session:
            cohort = open_cohort(session, "trial", source=str(source))
            add_images(session, cohort.id, list(Walk(open_source(str(source)))))
            mark_ready(session, cohort.id)
    first.rename(tmp_path / "elsewhere")
    screen_all(job_table)
    assert outcomes(job_table, below=first) == {"pending": 10}
    assert outcomes(job_table, below=second) == {"done": 10}
    (tmp_path / "elsewhere").rename(first)
    with job_table.write() as session:
        session.execute(update(Source).values(try_at=1.0))
    screen_all(job_table)
    assert outcomes(job_table, below=tmp_path) == {"done": 20}
