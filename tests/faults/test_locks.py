"""Locks, time limits and missing rights in PostgreSQL: workers wait, and no image fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import func, make_url, select

import worker.screening.batch
from db.engine import Database
from db.jobs.batches import cut_batches
from db.models.registry import ensure_champion
from db.queries.progress import progress
from db.settings import DatabaseSettings
from db.states import BatchState
from db.tables import Batch
from db.upkeep.migrate import upgrade
from scheduler.dispatch import Sweeper
from scheduler.ingest import open_source
from scheduler.submit import submit
from tests.conftest import postgres_url
from tests.faults.invariant import check
from tests.pictures import save_film
from worker.screening.batch import Screener
from worker.settings import WorkerSettings

#: The time limit of a statement, the time of another session's lock, and a lease, which is shorter.
STATEMENT_MS, LOCKED_SECONDS, LEASE = 200, 4.0, 2.0
IMAGES = 16


class Ward:
    """A cohort, and a worker and a sweeper whose role has a `statement_timeout`."""

    def __init__(self, postgres: object, artefact: Path, folder: Path) -> None:
        self.url = postgres_url(postgres, "hurried")
        owner = Database(DatabaseSettings(database_url=SecretStr(self.url)))
        upgrade(owner)
        ensure_champion(owner, artefact)
        folder.mkdir()
        for number in range(IMAGES):
            save_film(folder / f"{number}.png", number)
        submit(owner, open_source(str(folder)), name="trial")
        self.owner = owner
        self.psql(
            "DO $$ BEGIN CREATE ROLE hurried SUPERUSER LOGIN; EXCEPTION WHEN duplicate_object THEN END $$",
            f"ALTER ROLE hurried SET statement_timeout = {STATEMENT_MS}",
        )
        hurried = make_url(self.url).set(username="hurried").render_as_string(hide_password=False)
        self.worker = Database(DatabaseSettings(database_url=SecretStr(hurried)))
        self.pipeline = Screener(self.worker, WorkerSettings(lease_seconds=LEASE))

    def psql(self, *statements: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)  # type: ignore[call-overload]

    def cut(self) -> list[int]:
        with self.owner.write() as session:
            return cut_batches(session, 1, batch_images=256, in_flight=9)

    def close(self) -> None:
        self.worker.close()
        self.owner.close()


@pytest.fixture
def ward(postgres: object, artefact: Path, tmp_path: Path) -> Iterator[Ward]:
    made = Ward(postgres, artefact, tmp_path / "ward")
    yield made
    made.close()


def lock(url: str, statement: str, taken: threading.Event) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(statement)  # type: ignore[call-overload]
        taken.set()
        time.sleep(LOCKED_SECONDS)


@pytest.mark.parametrize(
    "statement",
    [
        "LOCK TABLE predictions IN EXCLUSIVE MODE",
        "LOCK TABLE batches IN ACCESS EXCLUSIVE MODE",
        "SELECT * FROM batches WHERE state = 'running' FOR UPDATE",
        "SELECT * FROM cohorts FOR UPDATE",
    ],
)
def test_a_lock_that_outlasts_a_lease_fails_no_image(
    statement: str, ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    (batch_id,) = ward.cut()
    sweeper, over, taken = Sweeper(ward.worker), threading.Event(), threading.Event()
    refused: list[str] = []
    computed = threading.Event()

    def sweep() -> None:
        while not over.wait(0.1):
            try:
                sweeper.sweep()
            except Exception as error:
                refused.append(str(error))

    really = worker.screening.batch.predict

    def predict(*args: object, **kwargs: object) -> object:
        # The lock is taken after the batch is claimed and before its results are written.
        threading.Thread(target=lock, args=(ward.url, statement, taken)).start()
        assert taken.wait(30)
        computed.set()
        return really(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(worker.screening.batch, "predict", predict)
    sweeping = threading.Thread(target=sweep)
    sweeping.start()
    try:
        assert ward.pipeline.screen(batch_id)
    finally:
        over.set()
        sweeping.join()
    assert computed.is_set()
    with ward.owner.read() as session:
        now = progress(session)[0]
        states = session.execute(select(Batch.state, Batch.attempt)).all()
    assert [tuple(row) for row in states] == [(BatchState.DONE, 1)], "a lock was counted against the images"
    assert (now.done, now.failed) == (IMAGES, 0)
    check(ward.owner, ended=True)


def test_a_table_that_the_worker_may_not_write_to_fails_no_image(ward: Ward) -> None:
    ward.psql(
        "DROP ROLE IF EXISTS barred", "CREATE ROLE barred LOGIN",
        "GRANT ALL ON ALL TABLES IN SCHEMA public TO barred",
        "GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO barred",
        "REVOKE INSERT ON predictions FROM barred",
    )  # fmt: skip
    (batch_id,) = ward.cut()
    url = make_url(ward.url).set(username="barred").render_as_string(hide_password=False)
    barred = Database(DatabaseSettings(database_url=SecretStr(url)))
    pipeline = Screener(barred, WorkerSettings(lease_seconds=LEASE, wait_seconds=0.01))
    try:
        for _ in range(3):
            with pytest.raises(Exception, match="rights"):
                pipeline.screen(batch_id)
            time.sleep(0.2)
    finally:
        barred.close()
    with ward.owner.read() as session:
        now = progress(session)[0]
        assert session.scalars(select(func.max(Batch.attempt))).one() == 0
    assert (now.queued, now.failed, now.waits_for) == (IMAGES, 0, "database-refused")
    ward.psql("DROP OWNED BY barred", "DROP ROLE barred")
    time.sleep(0.5)
    assert ward.pipeline.screen(batch_id)
    check(ward.owner, ended=True)
