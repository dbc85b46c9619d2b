"""The work of ticks, polls and pages: the same among 20,000 images as among 1,000."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from pydantic import SecretStr
from sqlalchemy import event, select, text, update

from db.engine import Database
from db.jobs.cohorts import find_cohort, open_cohort
from db.jobs.images import NewImage, add_images, held_uris
from db.queries.explanation import show_image
from db.queries.pages import ImageFilter, list_cohorts, list_images
from db.queries.progress import progress
from db.queries.results import cohort_results
from db.settings import DatabaseSettings
from db.states import ImageState
from db.tables import Image, ImageCount
from db.trust import comparison
from db.trust.comparison import compare_cohort, recent_cohorts
from db.upkeep.counters import fold
from db.upkeep.migrate import upgrade
from scheduler.dispatch import Sweeper, dispatch, dispatch_runs
from scheduler.metrics.broker import BrokerFigures
from scheduler.metrics.collect import JobTableCollector
from scheduler.nightly.conclusion import conclude
from scheduler.nightly.schedule import NightlySettings
from scheduler.nightly.slots import notify_nights
from scheduler.settings import SchedulerSettings
from tests.growth import grow
from tests.notifiers import ListNotifier
from training.settings import TrainingSettings
from training.trigger import trigger

SMALL, LARGE = 1_000, 20_000
#: The newest batches of a cohort that are compared with the training hospital: as many as both tables hold.
NEWEST = 4
#: The largest allowed factor. An index of twenty times the rows is one level deeper; a scan of all rows
#: would be twenty times the work.
DEEPER = 1.25


def poll(database: Database) -> None:
    with database.read() as session:
        (large,) = progress(session, ["large"])
    assert large.done + large.failed + large.skipped == large.total >= SMALL


def tick(database: Database) -> None:
    assert dispatch(database, SchedulerSettings(), ListNotifier()) == 0
    assert dispatch_runs(database, SchedulerSettings(), ListNotifier()) == 0


def sweep(database: Database) -> None:
    assert Sweeper(database).sweep() == 0


def scrape(database: Database) -> None:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(
        JobTableCollector(database, lambda: BrokerFigures(up=True, messages={}, workers={}), 60)
    )
    text = generate_latest(registry).decode()
    assert 'pneumoscreen_images{cohort="2",state="queued"} 512.0' in text


def nights(database: Database) -> None:
    assert notify_nights(database, NightlySettings(), ListNotifier()) == 0
    assert conclude(database) == []


def labelled(database: Database) -> None:
    assert trigger(database, TrainingSettings(retrain_new_labels=10)) is None


def first_rows(database: Database) -> None:
    with database.read() as session:
        cohort = find_cohort(session, "large")
        assert len(list(cohort_results(session, cohort, limit=20))) == 20


def last_rows(database: Database) -> None:
    with database.read() as session:
        cohort = find_cohort(session, "large")
        last = progress(session, ["large"])[0].total
        assert len(list(cohort_results(session, cohort, after=last - 20, limit=20))) == 20


def page(database: Database, *, after: int = 0, wanted: ImageFilter | None = None) -> None:
    with database.read() as session:
        cohort = find_cohort(session, "large")
        assert len(list_images(session, cohort, after=after, limit=20, wanted=wanted).rows) == 20


def last_page(database: Database) -> None:
    with database.read() as session:
        last = progress(session, ["large"])[0].total
    page(database, after=last - 20)


def page_of_failed(database: Database) -> None:
    page(database, wanted=ImageFilter(state=ImageState.FAILED))


def page_of_cohorts(database: Database) -> None:
    with database.read() as session:
        assert list_cohorts(session, limit=1).rows


def shown_image(database: Database) -> None:
    with database.read() as session:
        assert show_image(session, SMALL // 2 + 1).predictions


def known_files(database: Database) -> None:
    with database.read() as session:
        cohort = find_cohort(session, "large")
        uris = [f"/data/{number}.dcm" for number in range(1, 41, 2)] + ["/data/new.dcm"]
        assert len(held_uris(session, cohort.id, uris)) == 20


def trust(database: Database) -> None:
    with database.read() as session:
        compare_cohort(session, find_cohort(session, "large").id)
        assert recent_cohorts(session)


@pytest.fixture(autouse=True)
def few_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "NEWEST", NEWEST)
    monkeypatch.setattr(comparison, "_LAST_BATCHES", NEWEST)


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Database]]:
    """Fill a small job table, one with many images, and one with many finished cohorts."""
    databases = {}
    for name, images, finished in (
        ("small", SMALL, 1),
        ("many images", LARGE, 1),
        ("many cohorts", SMALL, LARGE // SMALL * 20),
    ):
        file = tmp_path_factory.mktemp("grown") / "pneumoscreen.db"
        databases[name] = Database(DatabaseSettings(database_url=SecretStr(f"sqlite:///{file}")))
        upgrade(databases[name])
        grow(databases[name], images, finished=finished)
    yield databases
    for database in databases.values():
        database.close()


def steps(database: Database, do: Callable[[Database], None]) -> int:
    """Return how many instructions of SQLite's virtual machine a second call of `do` takes."""
    count = 0

    def step() -> int:
        nonlocal count
        count += 1
        return 0

    def watch(connection: sqlite3.Connection, *_: object) -> None:
        connection.set_progress_handler(step, 1)

    do(database)
    event.listen(database.engine, "checkout", watch)
    try:
        do(database)
    finally:
        event.remove(database.engine, "checkout", watch)
        database.engine.dispose()
    return count


@pytest.mark.parametrize("do", [
        poll, tick, sweep, scrape, nights, labelled, first_rows, last_rows, page, last_page, page_of_failed,
        page_of_cohorts, shown_image, known_files, trust,
    ],
)  # fmt: skip
def test_periodic_work_does_not_grow_with_the_number_of_images(
    grown: dict[str, Database], do: Callable[[Database], None]
) -> None:
    small, large = steps(grown["small"], do), steps(grown["many images"], do)
    assert 0 < large <= DEEPER * small


@pytest.mark.parametrize("do", [poll, tick, sweep, nights, first_rows, page, page_of_cohorts, trust])
def test_periodic_work_does_not_grow_with_the_number_of_finished_cohorts(
    grown: dict[str, Database], do: Callable[[Database], None]
) -> None:
    small, large = steps(grown["small"], do), steps(grown["many cohorts"], do)
    assert 0 < large <= DEEPER * small


def test_a_page_of_results_reads_only_its_own_rows(grown: dict[str, Database]) -> None:
    few, many = (steps(grown["many images"], partial(rows, limit=limit)) for limit in (20, 400))
    assert few * 5 < many


def rows(database: Database, *, limit: int) -> None:
    with database.read() as session:
        assert len(list(cohort_results(session, find_cohort(session, "large"), limit=limit))) == limit


def test_folding_writes_only_the_counters_that_have_changed(database: Database) -> None:
    grow(database, SMALL)
    with database.write() as session:
        session.execute(update(Image).where(Image.cohort_id == 2).values(state=ImageState.DONE))
        mark = "ctid::text" if database.engine.dialect.name == "postgresql" else "images"
        large = text(f"SELECT {mark} FROM image_counts WHERE cohort_id = 1 ORDER BY state")  # noqa: S608
        before = session.execute(large).all()
        fold(session)
        assert session.execute(large).all() == before
        waiting = select(ImageCount.state, ImageCount.images).where(ImageCount.cohort_id == 2)
        assert session.execute(waiting).all() == [(ImageState.DONE, 512)]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_known_files_are_looked_up_by_name_in_a_cohort_that_postgresql_has_not_analysed(
    database: Database,
) -> None:
    with database.write() as session:
        cohort_id = open_cohort(session, "new", source="/data").id
        images = [NewImage(uri=f"/data/{number}") for number in range(3000)]
        assert add_images(session, cohort_id, images) == 3000
        assert add_images(session, cohort_id, [*images, *images, NewImage(uri="/data/x")]) == 1
        plans: list[str] = []

        def explain(_: object, cursor: Any, statement: str, parameters: Any, *__: object) -> None:
            if "named (uri)" in statement and not statement.startswith("EXPLAIN"):
                plans.extend(row[0] for row in cursor.execute(f"EXPLAIN {statement}", parameters))

        event.listen(database.engine, "before_cursor_execute", explain)
        try:
            assert held_uris(session, cohort_id, ["/data/7", "/data/y"]) == {"/data/7"}
        finally:
            event.remove(database.engine, "before_cursor_execute", explain)
    assert any("uq_images_uri_frame_cohort_id" in line for line in plans), plans
