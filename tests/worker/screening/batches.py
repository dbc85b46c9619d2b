"""Batches of files for tests of screening."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import select, update

from db.engine import Database
from db.jobs.batches import cut_batches
from db.jobs.cohorts import find_cohort, mark_ready, open_cohort, retry
from db.jobs.images import NewImage, add_images
from db.tables import Batch, Image, Source
from scheduler.ingest.sources.folder import FolderSource
from scheduler.ingest.walk import Walk
from worker.screening.batch import Screener
from worker.settings import WorkerSettings


def submit(database: Database, files: list[Path], name: str = "trial") -> int:
    """Take files in and cut them into one batch."""
    with database.write() as session:
        cohort = open_cohort(session, name, source="/data")
        add_images(session, cohort.id, [NewImage(uri=str(file)) for file in files])
        mark_ready(session, cohort.id)
        (batch_id,) = cut_batches(session, cohort.id, batch_images=256, in_flight=9)
        return batch_id


def submit_folder(database: Database, folder: Path) -> int:
    """Take a folder in as `pneumoscreen submit` does, and cut it into one batch."""
    with database.write() as session:
        cohort = open_cohort(session, "trial", source=str(folder))
        add_images(session, cohort.id, list(Walk(FolderSource(folder))))
        mark_ready(session, cohort.id)
        (batch_id,) = cut_batches(session, cohort.id, batch_images=256, in_flight=9)
        return batch_id


def cut(database: Database) -> list[int]:
    with database.write() as session:
        return cut_batches(session, find_cohort(session, "trial").id, batch_images=256, in_flight=9)


def try_again(database: Database) -> None:
    """Retry the images that failed, and screen them."""
    screener = Screener(database, WorkerSettings())
    with database.write() as session:
        retry(session, find_cohort(session, "trial"))
    while batch_ids := cut(database):
        for batch_id in batch_ids:
            screener.screen(batch_id)


def pause_is_over(database: Database) -> None:
    """Make waiting batches and sources due now."""
    with database.write() as session:
        session.execute(update(Batch).values(claim_after=None))
        session.execute(update(Source).values(try_at=1.0))


def outcomes(database: Database) -> dict[str, str | None]:
    with database.read() as session:
        rows = session.execute(select(Image.uri, Image.state, Image.problem)).all()
    return {Path(uri).name: problem or state for uri, state, problem in rows}


def by_path(database: Database) -> dict[Path, str]:
    with database.read() as session:
        rows = session.execute(select(Image.uri, Image.state, Image.problem)).all()
    return {Path(uri): problem or state for uri, state, problem in rows}
