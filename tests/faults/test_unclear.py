"""Connections to PostgreSQL that end in the middle of a batch, at chosen moments."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import select

from db.database_errors import DatabaseUnreachable
from db.engine import Database
from db.jobs.batches import cut_batches
from db.jobs.claims import claim
from db.jobs.cohorts import mark_ready, open_cohort
from db.jobs.images import NewImage, add_images
from db.models.registry import ensure_champion
from db.settings import DatabaseSettings
from db.states import BatchState
from db.tables import Batch, Prediction
from db.upkeep.migrate import upgrade
from scheduler import dispatch
from scheduler.dispatch import Sweeper
from tests.conftest import postgres_url
from tests.faults.invariant import check
from tests.faults.postgres import socket_of, through
from tests.faults.proxy import Proxy
from worker.screening.batch import Screener
from worker.settings import WorkerSettings


class Bench:
    """A worker's pipeline that reaches the job table through a proxy, and a batch."""

    def __init__(self, url: str, artefact: Path, files: list[Path]) -> None:
        self.proxy = Proxy(socket_of(url))
        self.database = Database(DatabaseSettings(database_url=SecretStr(url)))
        upgrade(self.database)
        ensure_champion(self.database, artefact)
        with self.database.write() as session:
            cohort = open_cohort(session, "trial", source="/data")
            add_images(session, cohort.id, [NewImage(uri=str(file)) for file in files])
            mark_ready(session, cohort.id)
            (self.batch_id,) = cut_batches(session, cohort.id, batch_images=256, in_flight=9)
        self.worker = Database(DatabaseSettings(database_url=SecretStr(through(self.proxy, url))))
        self.pipeline = Screener(self.worker, WorkerSettings(lease_seconds=5))

    def batch(self) -> Batch:
        with self.database.read() as session:
            return session.get_one(Batch, self.batch_id)

    def predictions(self) -> int:
        with self.database.read() as session:
            return len(session.scalars(select(Prediction.id)).all())

    def close(self) -> None:
        self.worker.close()
        self.database.close()
        self.proxy.close()


@pytest.fixture
def bench(postgres: object, artefact: Path, phantoms: Path) -> Iterator[Bench]:
    files = sorted(path for path in phantoms.rglob("*") if path.is_file())
    made = Bench(postgres_url(postgres, "unclear"), artefact, files)
    yield made
    made.close()


def test_a_commit_whose_answer_is_lost_is_settled_by_the_lease(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bench.proxy.cut_after(b"INSERT INTO predictions", b"COMMIT")
    bench.pipeline.screen(bench.batch_id)
    assert bench.proxy.cut_offs == 1
    assert (bench.batch().state, bench.batch().attempt, bench.predictions()) == (BatchState.DONE, 1, 10)
    assert "ended here; the database's answer was lost" in caplog.text
    assert "results are dropped" not in caplog.text
    check(bench.database, ended=True)


def test_results_whose_connection_is_lost_before_the_commit_are_written_again(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bench.proxy.cut_after(b"INSERT INTO predictions")
    bench.pipeline.screen(bench.batch_id)
    assert bench.proxy.cut_offs == 1
    assert (bench.batch().state, bench.batch().attempt, bench.predictions()) == (BatchState.DONE, 1, 10)
    assert "database-unreachable; trying again" in caplog.text
    assert "10 screened" in caplog.text
    check(bench.database, ended=True)


def test_a_stopping_worker_does_not_wait_for_the_job_table(bench: Bench) -> None:
    bench.proxy.go_away()
    bench.pipeline.stopping.set()
    with pytest.raises(DatabaseUnreachable) as caught:
        bench.pipeline.screen(bench.batch_id)
    assert caught.value.__suppress_context__, "the driver's text may hold a row"
    assert bench.batch().state is BatchState.QUEUED


def test_an_outage_is_not_counted_against_a_batch(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    sweeper = Sweeper(bench.worker)
    with bench.database.write() as session:
        assert claim(session, bench.batch_id, owner="worker", lease_seconds=-1) is not None
    bench.proxy.go_away()
    with pytest.raises(DatabaseUnreachable):
        sweeper.sweep()
    bench.proxy.come_back()
    assert sweeper.sweep() == 0, "a lease expired although the job table had been unavailable"
    monkeypatch.setattr(dispatch, "_GRACE_SECONDS", 0)
    assert sweeper.sweep() == 1
    assert bench.batch().state is BatchState.QUEUED
