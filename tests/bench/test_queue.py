"""What the queue costs: end to end with a model that answers at once, and with more workers."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from db.clock import database_now
from db.engine import Database
from db.jobs.batches import cut_batches
from db.jobs.claims import Effort, claim, complete
from db.jobs.cohorts import open_cohort
from db.jobs.images import NewImage, add_images
from db.models.predictions import Provenance, Screened
from db.models.registry import ensure_champion
from db.states import TERMINAL
from db.tables import Batch, Image
from deploy.stack import Stack
from scheduler.cli.system.running import answering, start_stack, workers_answer
from scheduler.ingest.source import Source
from scheduler.submit import submit
from tests.bench.figures import Figures
from tests.stack import stop_process
from tests.waiting import wait_for
from worker.files.opener import Entry

#: Images of a round, rounds, and the share of the plain loop that is wanted.
IMAGES, ROUNDS, SHARE = 20_000, 2, 0.5
BATCH = 256
#: Workers, seconds of their model for an image, batches for each worker, and the wanted share of linear.
WORKERS, SLEEP, BATCHES, LINEAR = (1, 2, 4, 8), 0.02, 16, 0.95
#: Images of their batches: with this model a batch takes as long as one of 256 with a model of 5 ms.
SMALL = 64

pytestmark = pytest.mark.bench


class Listing(Source):
    """A source of files that do not exist: listing and opening them takes no time."""

    def __init__(self, name: str, images: int) -> None:
        self._name, self._images = name, images

    @property
    def described(self) -> str:
        return f"/data/{self._name}"

    def entries(self) -> Iterator[Entry]:
        for number in range(self._images):
            yield Entry(f"{self.described}/IM{number:07d}.png", 100_000 + number, 1.7e9)

    def inspect(self, entry: Entry) -> NewImage:
        return NewImage(uri=entry.uri, size=entry.size, modified=entry.modified)


def plain_loop(database: Database, name: str, images: int) -> float:
    """Claim and complete batches in a loop; return images per second."""
    with database.write() as session:
        cohort = open_cohort(session, name, source=f"/{name}")
        # Neither housekeeping nor the workers touch it.
        cohort_id, cohort.hold_at = cohort.id, 1.0
    new = [NewImage(uri=f"/{name}/{number}.png", size=1, modified=1.0) for number in range(images)]
    for start in range(0, images, 1000):
        with database.write() as session:
            add_images(session, cohort_id, new[start : start + 1000], source_id=None)
    with database.write() as session:
        batches = cut_batches(session, cohort_id, batch_images=BATCH, in_flight=images)
        session.execute(update(Batch).where(Batch.id.in_(batches)).values(claim_after=database_now() + 1e6))
    provenance = Provenance(threshold=0.5, runtime="none", preprocessing="none", software="1")
    start_at = time.perf_counter()
    for batch_id in batches:
        with database.write() as session:
            claimed = claim(session, batch_id, owner="loop", lease_seconds=30)
        assert claimed is not None
        screened = [
            Screened(
                image_id=one.image_id,
                probability=0.5,
                label="PNEUMONIA",
                precision="fp32",
                input_digest="0" * 64,
            )
            for one in claimed.images
        ]
        effort = Effort(decode_seconds=0, forward_seconds=0, gpu_memory_bytes=None)
        with database.write() as session:
            complete(session, claimed, screened, [], provenance, effort)
    return images / (time.perf_counter() - start_at)


@contextmanager
def queue(database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run the embedded stack without its screening worker, and with nothing that the queue does not need."""
    monkeypatch.setenv("PNEUMOSCREEN_DATABASE_URL", database_url)
    # Twice the threads of all workers, as docs/operate.md says.
    monkeypatch.setenv("PNEUMOSCREEN_BATCHES_IN_FLIGHT", str(4 * max(WORKERS)))
    monkeypatch.delenv("PNEUMOSCREEN_FORWARD_IMAGES")
    stack = Stack()
    try:
        start_stack(database, stack)
        stack.wait_ready(workers_answer)
        for name in ("worker", "training", "flower", "metrics"):
            stop_process(stack, name)
        yield
    finally:
        stack.stop()


@contextmanager
def stand_ins(count: int, sleep: float = 0) -> Iterator[None]:
    """Run workers whose model answers at once, or sleeps, and wait until all of them answer."""
    environment = os.environ | {"SLEEP": str(sleep)}
    processes = []
    try:
        for number in range(count):
            log = (Stack().logs / f"stand-in-{number}.log").open("ab")
            command = [
                sys.executable, "-m", "celery", "-A", "tests.bench.stand_in", "worker", "-Q", "screen",
                "-n", f"stand-in-{number}@%h", "--pool=threads", "--concurrency=2",
                "--without-gossip", "--without-mingle", "--loglevel=WARNING",
            ]  # fmt: skip
            with log:
                processes.append(
                    subprocess.Popen(
                        command, cwd=Path(__file__).parents[2], env=environment, stdout=log, stderr=log
                    )
                )
        wait_for(lambda: sum(name.startswith("stand-in") for name in answering()) == count)
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(60)


def end_to_end(database: Database, name: str, images: int) -> tuple[int, float]:
    """Submit a cohort and wait for its last prediction; return its id and the seconds."""
    start = time.perf_counter()
    submitted = submit(database, Listing(name, images), name=name)
    ended = select(func.count()).where(Image.cohort_id == submitted.cohort_id, Image.state.in_(TERMINAL))
    wait_for(lambda: _count(database, ended) == images, 300)
    return submitted.cohort_id, time.perf_counter() - start


def _count(database: Database, query: object) -> int:
    with database.read() as session:
        return int(session.scalars(query).one())  # type: ignore[call-overload]


def test_the_queue_costs_less_than_the_claims_and_results_themselves(
    database: Database,
    database_url: str,
    artefact: Path,
    monkeypatch: pytest.MonkeyPatch,
    figures: Figures,
) -> None:
    ensure_champion(database, artefact)
    loop, ours = [], []
    with queue(database, database_url, monkeypatch), stand_ins(1):
        end_to_end(database, "warm-up", 2_000)
        for number in range(ROUNDS):
            loop.append(plain_loop(database, f"loop-{number}", IMAGES))
            ours.append(IMAGES / end_to_end(database, f"round-{number}", IMAGES)[1])
    share = statistics.median(mine / plain for mine, plain in zip(ours, loop, strict=True))
    subject = f"queue on {database.engine.dialect.name}"
    figures.add(subject, "claim and complete in a loop", statistics.median(loop), "images/s")
    figures.add(subject, "submit to last prediction, no model", statistics.median(ours), "images/s")
    figures.add(subject, "share", share, "", goal=SHARE)
    assert share >= SHARE


def steady_rate(database: Database, cohort_id: int) -> float:
    """Return images per second from when every worker has finished a batch until the first has its last."""
    with database.read() as session:
        rows = session.execute(
            select(Batch.lease_owner, Batch.finished_at, Batch.size).where(Batch.cohort_id == cohort_id)
        ).all()
    finished: dict[str, list[float]] = {}
    for owner, at, _ in rows:
        finished.setdefault(owner, []).append(at)
    start = max(min(times) for times in finished.values())
    end = min(max(times) for times in finished.values())
    return sum(size for _, at, size in rows if start < at <= end) / (end - start)


def test_more_workers_are_as_many_times_as_fast(
    database: Database,
    database_url: str,
    artefact: Path,
    monkeypatch: pytest.MonkeyPatch,
    figures: Figures,
) -> None:
    ensure_champion(database, artefact)
    monkeypatch.setenv("PNEUMOSCREEN_BATCH_IMAGES", str(SMALL))
    rates = {}
    with queue(database, database_url, monkeypatch):
        for count in WORKERS:
            with stand_ins(count, SLEEP):
                images = count * BATCHES * SMALL
                cohort_id, _ = end_to_end(database, f"workers-{count}", images)
            rates[count] = steady_rate(database, cohort_id)
    for count, rate in rates.items():
        subject = f"workers on {database.engine.dialect.name}"
        figures.add(subject, f"{count}", rate, "images/s")
        figures.add(subject, f"{count}, share of linear", rate / rates[1] / count, "", goal=LINEAR)
    assert min(rate / rates[1] / count for count, rate in rates.items()) >= LINEAR
