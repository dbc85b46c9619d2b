"""The cost of a growing job table, on both databases: `make growth` prints tables and draws docs/images.

`GROWTH` is the largest number of images. Times are CPU times of the work of commands and ticks.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from pydantic import SecretStr
from sqlalchemy import delete, text, update

from db.engine import Database
from db.jobs.batches import cut_batches
from db.jobs.claims import Effort, claim, complete
from db.jobs.cohorts import find_cohort, mark_ready, open_cohort
from db.jobs.images import NewImage, add_images
from db.models.predictions import Provenance, Screened
from db.nights.figures import night_figures
from db.nights.runs import claim_night, conclude_nights, find_night, finish_reading, open_now
from db.nights.seen import Stamp, seen_uris
from db.queries.progress import progress
from db.queries.results import Disclosure, cohort_results
from db.settings import DatabaseSettings
from db.tables import Cohort, Image, ImageCount, Table
from db.training.runs import open_runs
from db.upkeep.counters import compare
from db.upkeep.migrate import upgrade
from scheduler.dispatch import Sweeper, dispatch, dispatch_runs
from scheduler.exports.archive import prune
from scheduler.ingest.pseudonym import uid_pseudonyms
from scheduler.metrics.broker import BrokerFigures
from scheduler.metrics.collect import JobTableCollector
from scheduler.settings import SchedulerSettings
from tests.conftest import postgres_url
from tests.growth import grow
from tests.notifiers import ListNotifier

LARGEST = int(os.environ.get("GROWTH", "100000"))
SIZES = [size for size in (1_000, 10_000, 100_000, 1_000_000, 10_000_000) if size <= LARGEST]
#: The folder of the picture, if one is wanted.
PICTURE = os.environ.get("GROWTH_PICTURE")
ROUNDS = 7
#: Rows of a page of results, images of a pruned cohort, and files of the night's source.
PAGE, PRUNED, FILES = 1_000, 2_000, 1_000
#: The largest allowed factor from the smallest table to the largest: index depth, caches and noise.
GROWS = 4.0
#: Seconds below which a time is noise.
NOISE = 0.003


@dataclass
class Timed:
    """Milliseconds of each operation, for each size."""

    database: str
    milliseconds: dict[str, list[float]] = field(default_factory=dict)

    def add(self, what: str, seconds: float) -> None:
        self.milliseconds.setdefault(what, []).append(seconds * 1000)


class Clock:
    """The CPU time of this process and of PostgreSQL's sessions; other work on the machine does not count."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sessions: list[Path] = []

    def now(self) -> float:
        """Return seconds."""
        if self._database.engine.dialect.name == "postgresql" and not self._sessions:
            sessions = (
                "SELECT pid FROM pg_stat_activity"
                " WHERE datname = current_database() AND backend_type = 'client backend'"
            )
            with self._database.read() as session, self._database.read() as other:  # opens the pool's two
                other.execute(text("SELECT 1"))
                self._sessions = [Path(f"/proc/{pid}/schedstat") for pid in session.scalars(text(sessions))]
        # The kernel's time on a CPU in nanoseconds (proc-schedstat).
        servers = sum(int(file.read_text().split()[0]) for file in self._sessions) / 1e9
        return time.process_time() + servers

    def least(self, do: Callable[[], object]) -> float:
        """Call a function a few times and return its least time in seconds."""
        times = []
        for _ in range(ROUNDS):
            start = self.now()
            do()
            times.append(self.now() - start)
        return min(times)


def status(database: Database) -> None:
    with database.read() as session:
        progress(session)
        open_runs(session)


def poll(database: Database) -> None:
    with database.read() as session:
        progress(session, ["large"])


def tick(database: Database) -> None:
    dispatch(database, SchedulerSettings(), ListNotifier())
    dispatch_runs(database, SchedulerSettings(), ListNotifier())


def sweep(database: Database) -> None:
    Sweeper(database).sweep()


def scrape(database: Database) -> None:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(
        JobTableCollector(database, lambda: BrokerFigures(up=True, messages={}, workers={}), 60)
    )
    generate_latest(registry)


def page(database: Database, after: int) -> None:
    with database.read() as session:
        cohort = find_cohort(session, "large")
        hidden = Disclosure(pseudonym=uid_pseudonyms())
        rows = cohort_results(session, cohort, disclosure=hidden, after=after, limit=PAGE)
        assert len(list(rows)) == PAGE


def night(database: Database) -> None:
    """Do the work of a night in the job table, if all its files are known."""
    listed = {f"/data/{number}.dcm": Stamp(None, None) for number in range(1, FILES + 1)}
    with database.write() as session:
        run_id = open_now(session, "ward", plan={}, window_ends=None)
        lease = claim_night(session, run_id, lease_seconds=60)
    assert lease is not None
    with database.read() as session:
        assert len(seen_uris(session, "ward", listed)) == FILES
    with database.write() as session:
        finish_reading(session, lease, cohort_id=None)
    with database.write() as session:
        assert run_id in conclude_nights(session)
    with database.read() as session:
        night_figures(session, find_night(session, run_id))


def prune_one(database: Database, clock: Clock, folder: Path, number: int) -> float:
    """Archive a cohort of a fixed size, with studies, and return the seconds for each row."""
    with database.write() as session:
        cohort = open_cohort(session, f"old-{number}", source="/data")
        images = [
            NewImage(uri=f"/old/{number}/{one}", study_uid=f"2.{one // 4}", instance_uid=f"3.{one}")
            for one in range(PRUNED)
        ]
        add_images(session, cohort.id, images)
        mark_ready(session, cohort.id)
        session.execute(update(Image).where(Image.cohort_id == cohort.id).values(state="done"))
        session.execute(update(Cohort).where(Cohort.id == cohort.id).values(created_at=1.0))
    start = clock.now()
    (moved,) = prune(database, folder, days=1)
    assert moved.rows == PRUNED
    return (clock.now() - start) / PRUNED


@pytest.fixture(params=["sqlite", "postgresql"])
def databases(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Database]]:
    """Give a function that makes a new empty job table of a kind."""
    opened: list[Database] = []

    def make() -> Database:
        url = f"sqlite:///{tmp_path / f'{len(opened)}.db'}"
        if request.param == "postgresql":
            url = postgres_url(request.getfixturevalue("postgres"), f"growth_{len(opened)}")
        database = Database(DatabaseSettings(database_url=SecretStr(url)))
        opened.append(database)
        upgrade(database)
        return database

    yield make
    for database in opened:
        database.close()


def measure(timed: Timed, database: Database, size: int, folder: Path) -> None:
    """Time everything in a table of this size."""
    clock = Clock(database)
    for do in (poll, tick, sweep, scrape, status):
        timed.add(do.__name__, clock.least(partial(do, database)))
    timed.add("first page", clock.least(partial(page, database, 0)))
    timed.add("last page", clock.least(partial(page, database, size - PAGE)))
    timed.add("night, a thousand files", clock.least(partial(night, database)))
    pruned = min(prune_one(database, clock, folder, number) for number in range(3))
    timed.add("prune, a thousand rows", 1000 * pruned)


@pytest.mark.bench
def test_times_of_ticks_and_polls_do_not_grow_with_the_job_table(
    databases: Callable[[], Database], tmp_path: Path
) -> None:
    timed = Timed("")
    for size in SIZES:
        database = databases()
        timed.database = database.engine.dialect.name
        grow(database, size)
        measure(timed, database, size, tmp_path / "archive")
    report(timed)
    for what, milliseconds in timed.milliseconds.items():
        if what != "status":  # it lists the cohorts, whose number grows
            assert milliseconds[-1] <= GROWS * milliseconds[0] + 1000 * NOISE, f"{what} grows"


def report(timed: Timed) -> None:
    """Print a table in Markdown, and draw it."""
    print(f"\n| {timed.database}, ms of CPU | " + " | ".join(f"{size:,}" for size in SIZES) + " |")
    print("| --- |" + " --- |" * len(SIZES))
    for what, milliseconds in timed.milliseconds.items():
        print(f"| {what} | " + " | ".join(f"{value:.1f}" for value in milliseconds) + " |")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    if PICTURE:
        draw(timed, Path(PICTURE))


def draw(timed: Timed, folder: Path) -> None:
    """Draw the times over the number of images."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8.5, 4.5), layout="constrained")
    for what, milliseconds in timed.milliseconds.items():
        axes.plot(SIZES, milliseconds, marker="o", label=what)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="images in the job table",
        ylabel="ms of CPU time",
        title=timed.database,
    )
    figure.legend(fontsize="small", loc="outside right upper")
    axes.grid(alpha=0.3)
    figure.savefig(folder / f"growth-{timed.database}.png", dpi=110)
    pyplot.close(figure)


# -- the cost of counters for screening

IMAGES, BATCHES = 256, 12


def stop_counting(database: Database) -> None:
    """Drop the triggers that count."""
    with database.write() as session:
        table = " ON images" if database.engine.dialect.name == "postgresql" else ""
        for change in ("insert", "update", "delete"):
            session.execute(text(f"DROP TRIGGER image_counts_{change}{table}"))


def screen_batches(database: Database, clock: Clock) -> float:
    """Add, claim and complete images; return microseconds of claim and complete for each image."""
    with database.write() as session:
        for table in reversed(Table.metadata.sorted_tables):
            if table.name not in ("models", ImageCount.__tablename__):
                session.execute(delete(table))
        session.execute(delete(ImageCount))
        cohort = open_cohort(session, "trial", source="/data")
        images = [NewImage(uri=f"/data/{number}.png") for number in range(IMAGES * BATCHES)]
        add_images(session, cohort.id, images)
        mark_ready(session, cohort.id)
        batch_ids = cut_batches(session, cohort.id, batch_images=IMAGES, in_flight=BATCHES)
    start = clock.now()
    for batch_id in batch_ids:
        with database.write() as session:
            claimed = claim(session, batch_id, owner="bench", lease_seconds=60)
        assert claimed is not None
        with database.write() as session:
            complete(
                session,
                claimed,
                [
                    Screened(
                        image_id=item.image_id, probability=0.5, label="NORMAL", precision="fp32",
                        input_digest="0" * 64,
                    )
                    for item in claimed.images
                ],
                [],
                Provenance(threshold=0.5, runtime="r", preprocessing="p", software="s"),
                Effort(decode_seconds=1, forward_seconds=1, gpu_memory_bytes=None),
            )  # fmt: skip
    return (clock.now() - start) / (IMAGES * len(batch_ids)) * 1e6


@pytest.mark.bench
def test_counters_add_little_to_the_cost_of_screening(databases: Callable[[], Database]) -> None:
    counted, plain = databases(), databases()
    for database in (counted, plain):
        grow(database, 1_000)
    stop_counting(plain)
    clocks = Clock(counted), Clock(plain)
    times = [(screen_batches(counted, clocks[0]), screen_batches(plain, clocks[1])) for _ in range(ROUNDS)]
    with counted.read() as session:
        assert compare(session) == []
    ours, bare = (statistics.median(column) for column in zip(*times, strict=True))
    print(
        f"\n{counted.engine.dialect.name}: claim and complete take {ours:.0f} us of CPU an image"
        f" with counters, {bare:.0f} without: {ours / bare:.2f} times"
    )
    assert ours < 2 * bare + 50
