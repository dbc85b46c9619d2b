"""Processes whose clock is an hour wrong: leases and times follow the database's clock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import select

from db.engine import Database
from db.models.registry import ensure_champion
from db.nights.runs import now
from db.settings import DatabaseSettings
from db.tables import Batch, Event, Prediction
from db.upkeep.migrate import upgrade
from deploy.stack import Stack
from tests.conftest import postgres_url
from tests.faults.system import LEASE, System, running_system
from tests.stack import stop_process
from tests.waiting import wait_for
from worker.broker.app import DISPATCH, HOUSEKEEPING, make_app

HOUR = 3600
_LIBRARIES = (
    *Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"),
    *Path("/usr/local/lib/faketime").glob("libfaketimeMT.so.1"),
)


def wrong_clock(seconds: int) -> dict[str, str]:
    """Return the environment of a process whose clock is wrong by so many seconds; its timers stay right."""
    if not _LIBRARIES:
        pytest.skip("libfaketime is not installed (apt install faketime)")
    return {
        **os.environ,
        "LD_PRELOAD": str(_LIBRARIES[0]),
        "FAKETIME": f"{seconds:+d}",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


@contextmanager
def celery(module: str, *words: str, environment: dict[str, str], log: Path) -> Iterator[None]:
    """Run a Celery process."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", module, *words], env=environment, stdout=out, stderr=out
        )
    try:
        yield
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def system(
    postgres: object, artefact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[System]:
    """Run the stack without its own housekeeper."""
    url = postgres_url(postgres, "clock")
    with running_system(url, artefact, tmp_path / "x-rays", monkeypatch) as running:
        stop_process(Stack(), "housekeeping")
        yield running


KEEPER = ("worker", "-Q", "housekeeping,ingest", "-n", "housekeeping@wrong", "--pool=threads", "-c", "2")
WORKER = ("worker", "-Q", "screen", "-n", "screen@wrong", "--pool=threads", "-c", "2", "--loglevel=INFO")


@pytest.mark.parametrize("wrong", [pytest.param(HOUR, id="ahead"), pytest.param(-HOUR, id="behind")])
def test_a_process_whose_clock_is_wrong_writes_the_databases_time(
    postgres: object, artefact: Path, wrong: int
) -> None:
    """Only PostgreSQL has a clock of its own; SQLite, which is for one machine, uses that of the process."""
    url = postgres_url(postgres, "clock")
    database = Database(DatabaseSettings(database_url=SecretStr(url)))
    upgrade(database)
    ensure_champion(database, artefact)
    environment = wrong_clock(wrong) | {"PNEUMOSCREEN_DATABASE_URL": url}
    subprocess.run([sys.executable, "-m", "tests.faults.writer", "1", "1"], env=environment, check=True)
    with database.read() as session:
        at = now(session)
        times = [
            *session.scalars(select(Prediction.created_at)),
            *session.scalars(select(Batch.created_at)),
            *session.scalars(select(Batch.finished_at).where(Batch.finished_at.is_not(None))),
            *session.scalars(select(Event.at)),
        ]
    database.close()
    assert times
    assert all(at - 600 < one <= at for one in times)


@pytest.mark.long
@pytest.mark.parametrize("wrong", [pytest.param(HOUR, id="ahead"), pytest.param(-HOUR, id="behind")])
def test_every_image_is_screened_once_if_worker_and_housekeeper_clocks_are_wrong(
    system: System, tmp_path: Path, wrong: int
) -> None:
    clock, log = wrong_clock(wrong), tmp_path / "worker.log"
    with (
        celery("worker.tasks", *WORKER, environment=clock, log=log),
        celery("scheduler.tasks", *KEEPER, environment=clock, log=tmp_path / "keeper.log"),
    ):
        wait_for(lambda: "ready" in log.read_text())
        system.submit()
        system.end()
    assert "screened" in log.read_text(), "the worker whose clock is wrong screened nothing"
    with system.database.read() as session:
        at = now(session)
        times = session.scalars(select(Prediction.created_at)).all()
        attempts = session.scalars(select(Batch.attempt).distinct()).all()
    assert all(at - 600 < one <= at for one in times), "a time in the table is not from the database's clock"
    assert attempts == [1], "a lease expired early"


@pytest.mark.long
@pytest.mark.parametrize("wrong", [pytest.param(HOUR, id="ahead"), pytest.param(-HOUR, id="behind")])
def test_a_dead_worker_is_noticed_by_a_housekeeper_whose_clock_is_wrong(
    system: System, tmp_path: Path, wrong: int
) -> None:
    """The housekeeper sweeps only on beat's ticks, whose expiry is set by beat's clock."""
    keeper = celery("scheduler.tasks", *KEEPER, environment=wrong_clock(wrong), log=tmp_path / "keeper.log")
    with keeper:
        system.submit()
        wait_for(system.held)
        killed = system.held()
        system.signal("worker", signal.SIGKILL)
        start = time.monotonic()
        wait_for(lambda: not set(killed) & set(system.held()))
        assert time.monotonic() - start < 10 * LEASE
        system.end()


@pytest.mark.long
def test_expired_ticks_are_discarded(system: System, tmp_path: Path) -> None:
    app = make_app()
    for _ in range(500):
        app.send_task(DISPATCH)
    system.submit()
    assert system.broker().llen(HOUSEKEEPING) >= 500
    with celery(
        "scheduler.tasks", *KEEPER, "--loglevel=INFO", environment=wrong_clock(0), log=tmp_path / "keeper.log"
    ):
        wait_for(lambda: system.broker().llen(HOUSEKEEPING) < 50, 30)
        assert (tmp_path / "keeper.log").read_text().count("received") < 100
        system.end()
