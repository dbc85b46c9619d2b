"""A running system for tests of faults: the embedded stack with real processes on a job table."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr
from redis import Redis
from sqlalchemy import func, select

import deploy.configuration
from db.engine import Database
from db.models.registry import ensure_champion
from db.settings import DatabaseSettings, secrets_folder
from db.states import TERMINAL, BatchState
from db.tables import Batch, Image, Prediction
from db.upkeep.migrate import upgrade
from deploy.broker import valkey_config
from deploy.stack import Stack
from scheduler.cli.system.running import start_stack, workers_answer
from scheduler.ingest import open_source
from scheduler.submit import submit
from tests.faults.invariant import check
from tests.installation import ADMINISTRATOR, administrator
from tests.pictures import save_film
from tests.waiting import wait_for

#: `make test` runs the test on one database, `make test-all` and `make faults` on both.
_LONG = pytest.mark.long
SOONER_ON_SQLITE = pytest.mark.parametrize(
    "database_url", ["sqlite", pytest.param("postgresql", marks=_LONG)], indirect=True
)
SOONER_ON_POSTGRESQL = pytest.mark.parametrize(
    "database_url", [pytest.param("sqlite", marks=_LONG), "postgresql"], indirect=True
)

#: How often repeated faults are repeated.
TIMES = int(os.environ.get("FAULTS", "4"))
IMAGES = 40 * max(TIMES, 6)
LEASE = 2


class System:
    """The embedded stack on a job table, and a cohort to screen."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.folder = folder
        self.images = IMAGES

    def submit(self, images: int = IMAGES) -> None:
        self.images = images
        self.folder.mkdir()
        for number in range(images):
            save_film(self.folder / f"{number}.png", number)
        submit(self.database, open_source(str(self.folder)), name="trial")

    def pid(self, name: str) -> int:
        return next(process.pid for process in Stack().processes() if process.name == name)

    def has_started(self, name: str) -> bool:
        """Tell whether a process has run for a second; supervisord gives up on one that dies sooner."""
        return any(process.name == name and process.state == "RUNNING" for process in Stack().processes())

    def signal(self, name: str, number: signal.Signals) -> int:
        """Wait until a process runs and send it a signal; return its id."""
        wait_for(lambda: self.pid(name))
        pid = self.pid(name)
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        return pid

    def broker(self) -> Redis:
        """Return a connection to the broker with the rights of an administrator."""
        url = (secrets_folder() / "pneumoscreen_broker_url").read_text()
        return administrator(urlsplit(url).port or 0)

    def count(self, *states: str) -> int:
        with self.database.read() as session:
            query = select(func.count()).select_from(Image)
            return session.scalars(query.where(Image.state.in_(states) if states else True)).one()

    def held(self) -> list[int]:
        """Return the batches that a worker holds."""
        with self.database.read() as session:
            return list(session.scalars(select(Batch.id).where(Batch.state == BatchState.RUNNING)))

    def end(self) -> None:
        """Wait until all images have ended, and check that each has one prediction."""
        # A second for each image is enough on the busiest machine.
        wait_for(lambda: self.count(*TERMINAL) == self.images, 300 + self.images)
        check(self.database, ended=True)
        with self.database.read() as session:
            assert session.scalars(select(func.count()).select_from(Prediction)).one() == self.images

    def log(self, name: str) -> str:
        """Return what a process has logged."""
        return (Stack().logs / f"{name}.log").read_text()


#: Short intervals, for tests.
QUICK = {
    "LEASE_SECONDS": LEASE,
    "SWEEP_SECONDS": 0.5,
    "DISPATCH_SECONDS": 0.5,
    "RING_AGAIN_SECONDS": 2,
    "WAIT_SECONDS": 2,
}


@contextmanager
def running_system(
    database_url: str,
    artefact: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    through: str | None = None,
    **settings: object,
) -> Iterator[System]:
    """Run the stack on an empty database, which its processes reach `through` another URL if one is given.

    `settings` are settings of the processes, by their names without the prefix.
    """
    database = Database(DatabaseSettings(database_url=SecretStr(database_url)))
    upgrade(database)
    ensure_champion(database, artefact)
    monkeypatch.setattr(
        deploy.configuration, "valkey_config", lambda *given: f"{valkey_config(*given)}{ADMINISTRATOR}\n"
    )
    for name, value in (QUICK | {"DATABASE_URL": through or database_url} | settings).items():
        monkeypatch.setenv(f"PNEUMOSCREEN_{name}", str(value))
    try:
        start_stack(database, Stack())
        Stack().wait_ready(workers_answer)
        yield System(database, folder)
    finally:
        Stack().stop()
        database.close()
