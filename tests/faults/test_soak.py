"""A large cohort under faults at random: `make soak`. A model that does nothing; everything else is real."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from redis.exceptions import RedisError
from sqlalchemy import text

from db.states import TERMINAL
from deploy.stack import Stack
from scheduler.ingest import open_source
from scheduler.submit import submit
from tests.faults.postgres import Postgres, own_postgres
from tests.faults.system import System, running_system
from tests.faults.workers import OwnWorker

IMAGES = int(os.environ.get("SOAK", "10000"))
LEASE = 10
#: A file system takes so many links to a file, and more.
_LINKS = 10_000
_PER_FOLDER = 1_000
#: Bytes of the database for each image, indexes and what updates leave behind included.
_MOST_BYTES = 4_000


def link_images(folder: Path) -> None:
    """Make as many small radiographs as wanted; most are links to a few."""
    draw = np.random.default_rng(5)
    for start in range(0, IMAGES, _PER_FOLDER):
        inner = folder / f"{start // _PER_FOLDER:05d}"
        inner.mkdir(parents=True)
        for number in range(start, min(start + _PER_FOLDER, IMAGES)):
            original = folder.parent / f"original-{number // _LINKS}.png"
            if not original.exists():
                slopes = np.add.outer(np.arange(96), np.arange(96)) % int(draw.integers(20, 250))
                PIL.Image.fromarray(slopes.astype(np.uint8)).save(original)
            (inner / f"{number}.png").hardlink_to(original)


class Faults:
    """What is done to the system, at random."""

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
    """Return a process' resident memory in MiB, 0 where it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20


@pytest.mark.bench
def test_a_soak(artefact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(11)
    folder = tmp_path / "x-rays"
    link_images(folder)
    with (
        own_postgres() as server,
        running_system(server.url, artefact, folder, monkeypatch, LEASE_SECONDS=LEASE) as system,
    ):
        Stack().stop_process("worker")
        system.images = IMAGES
        start = time.monotonic()
        assert submit(system.database, open_source(str(folder)), name="trial").new == IMAGES
        taken_in = time.monotonic()
        faults = Faults(system, server)
        held: dict[str, list[int]] = defaultdict(list)
        try:
            while system.count(*TERMINAL) < IMAGES:
                time.sleep(draw.uniform(5, 20))
                faults.one(draw)
                for process in Stack().processes():
                    held[process.name].append(memory(process.pid))
                held["screening worker"].append(memory(faults.worker.pid))
                assert time.monotonic() - taken_in < 60 + IMAGES / 50, "it takes too long"
            ended = time.monotonic()
        finally:
            faults.worker.end()
        system.end()
        with system.database.read() as session:
            size = session.scalars(text("SELECT pg_database_size(current_database())")).one() / IMAGES
    print(
        f"\n{IMAGES} images taken in in {taken_in - start:.0f} s, screened in {ended - taken_in:.0f} s "
        f"({IMAGES / (ended - taken_in):.0f}/s); faults {dict(faults.done)}; {size:.0f} bytes an image; "
        f"MiB, second and last third: { ({name: thirds(of) for name, of in held.items()}) }"
    )
    assert size < _MOST_BYTES
    for name, of in held.items():
        middle, last = thirds(of)
        # A short run is over before every process is warm.
        assert len(of) < 12 or last <= 1.2 * middle + 30, f"{name} grows"


def thirds(values: list[int]) -> tuple[int, int]:
    """Return the greatest of the second and of the last third: in the first, processes get warm."""
    third = max(len(values) // 3, 1)
    return max(values[third : 2 * third] or values), max(values[-third:])
