"""A large cohort under faults at random, with nightly runs and pruning beside it: `make soak`.

The model does nothing; everything else is real.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

import pytest
from pyarrow.parquet import read_table
from redis.exceptions import RedisError
from sqlalchemy import select, text

from db.database_errors import DatabaseFailed
from db.engine import Database
from db.nights.runs import history
from db.queries.progress import progress
from db.settings import config_file
from db.states import ImageState
from db.tables import Image, Prediction
from deploy.stack import Stack
from scheduler.ingest import open_source
from scheduler.submit import submit
from tests.commands import run
from tests.faults.invariant import check
from tests.faults.postgres import Postgres, own_postgres
from tests.faults.system import System, running_system
from tests.faults.workers import OwnWorker
from tests.pictures import save_film
from tests.stack import stop_process
from tests.waiting import wait_for

IMAGES = int(os.environ.get("SOAK", "10000"))
LEASE = 10
#: Links to one file; every file system allows at least so many.
_LINKS = 10_000
_PER_FOLDER = 1_000
#: The most bytes of the database for each image, with indexes and dead rows.
_MOST_BYTES = 4_000


def link_images(folder: Path) -> None:
    """Make `IMAGES` small radiographs; most are links to a few files."""
    for start in range(0, IMAGES, _PER_FOLDER):
        inner = folder / f"{start // _PER_FOLDER:05d}"
        inner.mkdir(parents=True)
        for number in range(start, min(start + _PER_FOLDER, IMAGES)):
            original = folder.parent / f"original-{number // _LINKS}.png"
            if not original.exists():
                save_film(original, number)
            (inner / f"{number}.png").hardlink_to(original)


class Faults:
    """Random faults of a system."""

    def __init__(self, system: System, server: Postgres) -> None:
        self.system, self.server = system, server
        self.worker = OwnWorker("no-model", 0)
        self.done: dict[str, int] = defaultdict(int)

    def one(self, draw: random.Random) -> None:
        what = draw.choice((self.kill, self.zombie, self.flush, self.broker, self.terminate, self.restart))
        self.done[what.__name__] += 1
        what()

    def kill(self) -> None:
        self.worker.end()
        self.worker = OwnWorker("no-model", 0)

    def zombie(self) -> None:
        os.kill(self.worker.pid, signal.SIGSTOP)
        time.sleep(1.5 * LEASE)
        os.kill(self.worker.pid, signal.SIGCONT)

    def flush(self) -> None:
        with suppress(RedisError):
            self.system.broker().flushall()
            self.system.broker().client_kill_filter(_type="normal", skipme=True)

    def broker(self) -> None:
        self.system.signal("broker", signal.SIGKILL)

    def terminate(self) -> None:
        self.server.terminate()

    def restart(self) -> None:
        self.server.stop()
        time.sleep(2)
        self.server.start()


def memory(pid: int) -> int:
    """Return the resident memory of a process in MiB, or 0 if it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20


class Nights:
    """A nightly schedule whose folder always gets new images, and a user who prunes finished cohorts."""

    def __init__(self, database: Database, folder: Path, archive: Path) -> None:
        self.database, self.folder, self.archive = database, folder, archive
        self.names: list[str] = []
        self.pruned = 0
        folder.mkdir()
        config_file().write_text(
            f'[[nightly]]\nname = "ward"\nsource = "{folder}"\ncohort = "ward-{{date}}-{{time}}"\n'
        )
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._feed), threading.Thread(target=self._prune)]

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Add images and prune for the time of the block."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()

    def _feed(self) -> None:
        for number in count():
            # Until the file is complete, its name is not that of an image.
            partial = save_film(self.folder / f"{number}.partial", number)
            partial.rename(self.folder / f"{number}.png")
            self.names.append(f"{number}.png")
            if number % 5 == 0:
                self.command("nightly", "run", "ward")
            if self._stop.wait(1):
                return

    def _prune(self) -> None:
        while not self._stop.wait(5):
            self.pruned += self.command("db", "prune", str(self.archive), "--days", "0") == 0

    @staticmethod
    def command(*words: str) -> int:
        """Run a command as a user does; if the database is down, it fails with a code."""
        return run(*words, expect=None).returncode

    def finish(self) -> None:
        """Take in what is left, and wait until every night that ran has ended and was summarised."""
        wait_for(lambda: self.command("nightly", "run", "ward") == 0)
        wait_for(self._ended, 300)

    def _ended(self) -> bool:
        with self.database.read() as session:
            return all(run.summarised_at is not None for run in history(session, limit=len(self.names)))


def every_prediction(database: Database, archive: Path) -> Counter[str]:
    """Count predictions by file, in the job table and in the archives together."""
    with database.read() as session:
        found = Counter(session.scalars(select(Image.uri).join(Prediction, Prediction.image_id == Image.id)))
    for file in archive.glob("*.parquet"):
        rows = read_table(file, columns=["source", "state", "probability"]).to_pylist()
        assert all(row["state"] == ImageState.DONE and row["probability"] is not None for row in rows)
        found.update(row["source"] for row in rows)
    return found


@pytest.mark.bench
def test_every_image_is_predicted_once_under_random_faults(
    artefact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(11)
    folder, archive = tmp_path / "x-rays", tmp_path / "archive"
    link_images(folder)
    with (
        own_postgres() as server,
        running_system(
            server.url,
            artefact,
            folder,
            monkeypatch,
            LEASE_SECONDS=LEASE,
            NIGHTLY_SECONDS=1,
            NIGHTLY_RETRY_SECONDS=10,
        ) as system,
    ):
        stop_process(Stack(), "worker")
        start = time.monotonic()
        assert submit(system.database, open_source(str(folder)), name="trial").new == IMAGES
        taken_in = time.monotonic()
        faults = Faults(system, server)
        nights = Nights(system.database, tmp_path / "ward", archive)
        held: dict[str, list[int]] = defaultdict(list)
        try:
            with nights.beside():
                while ended_images(system.database) < IMAGES:
                    time.sleep(draw.uniform(5, 20))
                    faults.one(draw)
                    for process in Stack().processes():
                        held[process.name].append(memory(process.pid))
                    held["screening worker"].append(memory(faults.worker.pid))
                    assert time.monotonic() - taken_in < 60 + IMAGES / 50, "it takes too long"
                ended = time.monotonic()
            nights.finish()
        finally:
            faults.worker.end()
        check(system.database, ended=True)
        expected = {
            str(file) for file in [*folder.rglob("*.png"), *(nights.folder / one for one in nights.names)]
        }
        assert every_prediction(system.database, archive) == Counter(expected), (
            "an image is lost or predicted twice"
        )
        with system.database.read() as session:
            size = session.scalars(text("SELECT pg_database_size(current_database())")).one() / IMAGES
    print(
        f"\n{IMAGES} images ingested in {taken_in - start:.0f} s, screened in {ended - taken_in:.0f} s "
        f"({IMAGES / (ended - taken_in):.0f}/s); faults {dict(faults.done)}; {size:.0f} bytes an image; "
        f"{len(nights.names)} images by night, {len(list(archive.iterdir()))} archives of "
        f"{nights.pruned} prunings; "
        f"MiB, second and last third: { ({name: thirds(of) for name, of in held.items()}) }"
    )
    assert size < _MOST_BYTES
    for name, of in held.items():
        middle, last = thirds(of)
        # A short run ends before every process has reached its usual size.
        assert len(of) < 12 or last <= 1.2 * middle + 30, f"{name} grows"


def ended_images(database: Database) -> int:
    """Return how many images of the cohort have ended, or 0 while the database is down."""
    with suppress(DatabaseFailed), database.read() as session:
        return progress(session, ["trial"])[0].ended
    return 0


def thirds(values: list[int]) -> tuple[int, int]:
    """Return the largest value of the second and of the last third; in the first, processes still grow."""
    third = max(len(values) // 3, 1)
    return max(values[third : 2 * third] or values), max(values[-third:])
