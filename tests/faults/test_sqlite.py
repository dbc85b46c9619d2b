"""SQLite job tables with many writers, read-only, and without room."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from db.database_errors import DatabaseFull, DatabaseReadOnly
from db.engine import Database
from db.jobs.batches import cohorts_to_dispatch
from db.jobs.cohorts import open_cohort
from db.jobs.images import NewImage, add_images
from db.settings import DatabaseSettings
from scheduler.ingest import open_source
from scheduler.submit import submit
from tests.faults.invariant import check
from tests.faults.system import TIMES

WRITERS = 8


def test_eight_concurrent_writers_all_succeed(job_table: Database) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.faults.writer", str(number), str(TIMES)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ,
        )
        for number in range(WRITERS)
    ]  # fmt: skip
    said = [writer.communicate() for writer in writers]
    assert [error for _, error in said] == [""] * WRITERS
    written = [int(out.split()[0]) for out, _ in said]
    slowest = max(float(out.split()[1]) for out, _ in said)
    print(f"{sum(written)} transactions of {WRITERS} writers, {min(written)} of one; the slowest {slowest} s")
    assert min(written) > 0
    check(job_table)


def test_a_read_only_job_table_is_reported_with_its_own_code(job_table: Database, home: Path) -> None:
    # The mode of the file does not stop root, so SQLite opens the file read-only.
    url = f"sqlite:///file:{home / 'pneumoscreen.db'}?mode=ro&uri=true"
    reader = Database(DatabaseSettings(database_url=SecretStr(url)))
    with reader.read() as session:
        assert cohorts_to_dispatch(session) == []
    with pytest.raises(DatabaseReadOnly) as caught, reader.write() as session:
        open_cohort(session, "trial", source="/data")
    assert caught.value.code == "database-read-only"
    assert "/" not in caught.value.detail
    reader.close()


def test_a_full_job_table_accepts_images_once_there_is_room(
    job_table: Database, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fill the database up to a limit of its pages, which needs no small disk."""
    monkeypatch.setenv("PNEUMOSCREEN_INGEST_IMAGES", "4")
    with job_table.write() as session:
        cohort_id = open_cohort(session, "large", source="/data").id
    limit_pages(job_table, room=0)
    with pytest.raises(DatabaseFull), job_table.write() as session:
        submitted = [NewImage(uri=f"/data/{'x' * 200}/{number}") for number in range(2000)]
        add_images(session, cohort_id, submitted)
    limit_pages(job_table, room=10_000)
    taken = submit(job_table, open_source(str(phantoms)), name="trial")
    assert (taken.found, taken.new) == (10, 10)
    check(job_table)


def limit_pages(database: Database, *, room: int) -> None:
    """Limit the growth of the file to `room` pages, for the only connection that the test uses."""
    with database.read() as session:
        connection = session.connection()
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {int(pages or 0) + room}")
