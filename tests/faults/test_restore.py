"""Restores that are killed at any moment and run again."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import MetaData, inspect, select

from db.engine import Database
from db.models.store import CARD_FILE, WEIGHTS_FILE
from db.queries.counts import count_images
from db.settings import DatabaseSettings
from db.tables import Event, ImageCount, Table
from db.upkeep.backup import DatabaseNotEmpty, RestoreKeyDiffers, backup, restore
from db.upkeep.counters import compare
from scheduler.ingest import open_source
from scheduler.ingest.pseudonym import SiteKeyMissing, ensure_site_key
from scheduler.submit import submit
from tests.conftest import make_key

#: Scales how often a restore is killed at a random time.
TIMES = int(os.environ.get("FAULTS", "4"))

#: A program that restores and is killed at the moment that its first argument names: before a file gets its
#: name, in the middle of the tables, before the last row, before the commit or after it.
DIES = """
import os, signal, sys
from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session
moment = sys.argv.pop(1)

def die_at(*reached):
    if moment in reached:
        os.kill(os.getpid(), signal.SIGKILL)

def audited(what, arguments):
    if what in ("os.link", "os.rename"):
        die_at(os.path.basename(arguments[1]))

def statement(connection, cursor, text, *rest):
    if text.startswith("INSERT INTO images"):
        die_at("images")
    if text.startswith("INSERT INTO events") and "database.restore" in str(rest):
        die_at("last row")

def committed(session):
    die_at("after the commit")

sys.addaudithook(audited)
event.listen(Engine, "before_cursor_execute", statement)
event.listen(Engine, "commit", lambda connection: die_at("commit"))
event.listen(Session, "after_commit", committed)
from scheduler.__main__ import main
main()
"""


#: Rows by table.
Held = dict[str, list[tuple[object, ...]]]


def held(database: Database) -> Held:
    with database.read() as session:
        rows: Held = {
            table.name: [tuple(row) for row in session.execute(select(table).order_by(*table.primary_key))]
            for table in Table.metadata.sorted_tables
            if table.name != ImageCount.__tablename__
        }
        # In PostgreSQL the rows of a counter depend on when they were last folded; their sum does not.
        counts = count_images(session)
        assert compare(session) == []
    rows[ImageCount.__tablename__] = sorted(
        (cohort_id, *key, count) for cohort_id, of in counts.items() for key, count in of.items()
    )
    return rows


class Site:
    """An empty installation, the target of repeated restores."""

    def __init__(self, home: Path, url: str) -> None:
        self.home, self.url = home, url
        self.database = Database(DatabaseSettings(database_url=SecretStr(url)))

    def command(self, file: Path, *program: str) -> subprocess.Popen[bytes]:
        where = {"PNEUMOSCREEN_HOME": str(self.home), "PNEUMOSCREEN_DATABASE_URL": self.url}
        return subprocess.Popen(
            [sys.executable, *program, "db", "restore", str(file)],
            env=os.environ | where,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def empty(self) -> None:
        with self.database.engine.begin() as connection:
            metadata = MetaData()
            metadata.reflect(connection)
            metadata.drop_all(connection)
        for left in (*self.home.glob("models"), *self.home.glob("site.key")):
            shutil.rmtree(left) if left.is_dir() else left.unlink()

    def tables(self) -> Held | None:
        """Return what the job table holds; None if it has no tables."""
        with self.database.read() as session:
            if not inspect(session.connection()).get_table_names():
                return None
        return held(self.database)


class Origin:
    """The contents of the backup: DICOM with patients, a model and a key."""

    def __init__(self, database: Database, home: Path, file: Path, model: str) -> None:
        self.file, self.model = file, model
        self.key = (home / "site.key").read_bytes()
        self.weights = (database.models_folder / model / WEIGHTS_FILE).read_bytes()
        self.tables = held(database)

    def check_part(self, site: Site) -> None:
        """Check what holds at any moment: no other key, no partial file, the whole job table or none."""
        if (site.home / "site.key").exists():
            assert (site.home / "site.key").read_bytes() == self.key
        weights = site.home / "models" / self.model / WEIGHTS_FILE
        assert not weights.exists() or weights.read_bytes() == self.weights
        tables = site.tables()
        assert tables is None or self._same(tables)
        if tables is not None:  # then nothing else is missing either
            assert weights.exists()
            assert (site.home / "site.key").exists()

    def check_whole(self, site: Site) -> None:
        """Check that everything is restored, and that the key still makes the same pseudonyms."""
        self.check_part(site)
        tables = site.tables()
        assert tables is not None
        files = sorted(one.name for one in (site.home / "models" / self.model).iterdir())
        assert files == [CARD_FILE, WEIGHTS_FILE]
        ensure_site_key(site.database)

    def _same(self, tables: Held) -> bool:
        restored = tables["events"][-1]
        return restored[3] == "database.restore" and tables | {"events": tables["events"][:-1]} == self.tables


@pytest.fixture
def origin(job_table: Database, home: Path, phantoms: Path, tmp_path: Path, artefact: Path) -> Origin:
    submit(job_table, open_source(str(phantoms)), name="trial")
    backup(job_table, tmp_path / "b.tar")
    return Origin(job_table, home, tmp_path / "b.tar", artefact.name)


@pytest.fixture(params=["sqlite", "postgresql"])
def site(
    request: pytest.FixtureRequest, origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Site:
    from tests.conftest import postgres_url

    home = tmp_path / "elsewhere"
    home.mkdir(mode=0o700)
    url = f"sqlite:///{home / 'x.db'}"
    if request.param == "postgresql":
        url = postgres_url(request.getfixturevalue("postgres"), "restored")
    monkeypatch.setenv("PNEUMOSCREEN_HOME", str(home))
    made = Site(home, url)
    request.addfinalizer(made.database.close)
    return made


#: On PostgreSQL only the moments inside its transaction, except in long runs.
MOMENTS = [
    *(("sqlite", one) for one in ("site.key", WEIGHTS_FILE, "images", "commit", "after the commit")),
    *(("postgresql", one) for one in ("images", "commit")),
    *(
        pytest.param("postgresql", one, marks=pytest.mark.long)
        for one in ("site.key", WEIGHTS_FILE, "last row", "after the commit")
    ),
]


@pytest.mark.parametrize(("site", "moment"), MOMENTS, indirect=["site"])
def test_a_killed_restore_can_be_run_again_with_the_same_result(
    origin: Origin, site: Site, moment: str
) -> None:
    killed = site.command(origin.file, "-c", DIES, moment)
    assert killed.wait(120) == -9, killed.communicate()
    origin.check_part(site)
    restore(site.database, origin.file)
    origin.check_whole(site)


@pytest.mark.long
def test_a_restore_can_be_killed_at_random_times_and_run_again(origin: Origin, site: Site) -> None:
    started = time.monotonic()
    assert site.command(origin.file, "-m", "scheduler").wait(120) == 0
    whole = time.monotonic() - started
    origin.check_whole(site)
    chance = random.Random(7)
    killed = 0
    for _ in range(5 * TIMES):
        site.empty()
        for _ in range(3):
            running = site.command(origin.file, "-m", "scheduler")
            time.sleep(chance.uniform(0.3, 1.1) * whole)
            running.kill()
            killed += running.wait(60) == -9
            origin.check_part(site)
        restore(site.database, origin.file)
        origin.check_whole(site)
    print(f"killed {killed} times")
    assert killed


def test_a_restore_replaces_neither_a_key_nor_a_job_table(origin: Origin, site: Site) -> None:
    key = make_key(site.home)
    with pytest.raises(RestoreKeyDiffers):
        restore(site.database, origin.file)
    assert (site.home / "site.key").read_bytes() == key
    assert site.tables() is None
    (site.home / "site.key").unlink()
    restore(site.database, origin.file)
    with site.database.write() as session:
        session.add(Event(actor="somebody", action="cohort.submit", subject="cohort:2", detail={}))
    (site.home / "models" / origin.model / WEIGHTS_FILE).write_bytes(b"untouched")
    with pytest.raises(DatabaseNotEmpty):
        restore(site.database, origin.file)
    assert (site.home / "models" / origin.model / WEIGHTS_FILE).read_bytes() == b"untouched"


def test_a_restore_without_the_key_creates_no_new_key(
    job_table: Database, origin: Origin, site: Site, tmp_path: Path
) -> None:
    backup(job_table, tmp_path / "without.tar", with_key=False)
    restore(site.database, tmp_path / "without.tar")
    with pytest.raises(SiteKeyMissing):
        ensure_site_key(site.database)
    (site.home / "site.key").write_bytes(origin.key)
    ensure_site_key(site.database)
