"""Waits for unavailable sources and models, on SQLite and on PostgreSQL."""

from __future__ import annotations

import pytest
from sqlalchemy import select, update

from db.database_errors import DatabaseFailed
from db.engine import Database
from db.jobs.claims import claim, most_urgent, requeue
from db.jobs.cohorts import cancel, find_cohort, mark_ready, open_cohort, retry
from db.jobs.images import NewImage, add_images
from db.jobs.problems import SourceAway
from db.jobs.sources import Backoff, ensure_source
from db.queries.progress import progress
from db.tables import Batch, Cohort, Source
from tests.db.test_batches import cut, finish, held, queued_batches, submit

WEEK = 7 * 86_400.0
AWAY = Backoff(code=SourceAway.code, first_seconds=30, limit_seconds=WEEK)
NO_MODEL = Backoff(code="model-missing", first_seconds=30, limit_seconds=WEEK)


def submit_from(database: Database, source: str, images: int) -> int:
    """Add images of a source to the cohort; return the source's id."""
    with database.write() as session:
        cohort = open_cohort(session, "trial", source=source)
        source_id = ensure_source(session, cohort.id, source)
        assert ensure_source(session, cohort.id, source) == source_id
        new = [NewImage(uri=f"{source}/{number}.png") for number in range(images)]
        add_images(session, cohort.id, new, source_id=source_id)
        mark_ready(session, cohort.id)
        return source_id


def wait(database: Database, batch_id: int, why: Backoff) -> None:
    claimed = held(database, batch_id)
    with database.write() as session:
        requeue(session, claimed.lease, backoff=why)


def trial(database: Database) -> int:
    with database.read() as session:
        return find_cohort(session, "trial").id


@pytest.mark.usefixtures("model")
def test_a_batch_has_images_of_one_source_and_one_batch_at_a_time_tries_an_unavailable_source(
    database: Database,
) -> None:
    first, second = submit_from(database, "/first", 100), submit_from(database, "/second", 100)
    batches = cut(database, trial(database), in_flight=3)
    wait(database, batches[0], AWAY)
    with database.read() as session:
        assert session.scalars(select(Batch.id).where(Batch.state == "queued")).all() == []
    cut(database, trial(database), in_flight=3)
    with database.write() as session:
        sources = session.scalars(select(Batch.source_id).where(Batch.state == "queued")).all()
        assert sources == [second] * 3, "batches of the unavailable source still count as in flight"
        session.execute(update(Source).where(Source.id == first).values(try_at=1.0))
    (trying,) = cut(database, trial(database), in_flight=3)
    assert cut(database, trial(database), in_flight=3) == [], "a second batch tries the unavailable source"
    finish(database, held(database, trying))
    with database.read() as session:
        assert session.get_one(Source, first).waits_for is None
        assert progress(session)[0].waits_for is None


@pytest.mark.usefixtures("model")
def test_an_unavailable_source_is_tried_less_and_less_often_and_fails_at_the_limit(
    database: Database,
) -> None:
    source_id = submit_from(database, "/gone", 100)
    pauses = []
    for waited in (0.0, 100.0, 1e5):
        with database.write() as session:
            session.execute(update(Source).values(waits_since=Source.waits_since - waited, try_at=1.0))
        wait(database, cut(database, trial(database))[0], AWAY)
        with database.read() as session:
            source = session.get_one(Source, source_id)
            assert source.try_at is not None
            assert source.waits_since is not None
            now = session.scalars(select(Source.try_at - Source.waits_since)).one()
            pauses.append(now - waited if waited < 1e5 else now - 1e5 - 100)
    assert pauses == pytest.approx([30, 100, 300], abs=10)
    with database.write() as session:
        session.execute(update(Source).values(waits_since=Source.waits_since - WEEK, try_at=1.0))
    wait(database, cut(database, trial(database))[0], AWAY)
    with database.write() as session:
        assert progress(session)[0].problems == {"source-away": 100}
        assert retry(session, find_cohort(session, "trial")) == 100
    wait(database, cut(database, trial(database))[0], AWAY)
    with database.read() as session:
        assert progress(session)[0].pending == 100, "the wait did not start again after a retry"


@pytest.mark.usefixtures("model")
def test_a_model_that_stays_unavailable_fails_the_images_that_wait_for_it(database: Database) -> None:
    (batch_id,) = cut(database, submit(database, 16))
    wait(database, batch_id, NO_MODEL)
    assert queued_batches(database) == [batch_id]
    with database.write() as session:
        assert most_urgent(session, batch_id) is None, "it was tried again at once"
        session.execute(update(Cohort).values(waits_since=Cohort.waits_since - WEEK))
    wait(database, batch_id, NO_MODEL)
    with database.write() as session:
        now = progress(session)[0]
        assert (now.finished, now.problems) == (True, {"waited-too-long": 16})
        retry(session, find_cohort(session, "trial"))
    (again,) = cut(database, trial(database))
    wait(database, again, NO_MODEL)
    assert queued_batches(database) == [again]


@pytest.mark.usefixtures("model")
def test_a_cancelled_cohort_waits_for_nothing(database: Database) -> None:
    submit_from(database, "/gone", 40)
    wait(database, cut(database, trial(database))[0], AWAY)
    with database.write() as session:
        cancel(session, find_cohort(session, "trial"))
    with database.read() as session:
        assert session.scalars(select(Source.waits_for)).all() == [None]
        assert progress(session)[0].finished


@pytest.mark.usefixtures("model")
def test_a_message_leads_to_the_most_urgent_batch_whichever_batch_it_names(database: Database) -> None:
    low = cut(database, submit(database, 48, name="low"))
    with database.read() as session:
        assert most_urgent(session, low[1]) == low[1], "the named batch was not the first of its priority"
        assert most_urgent(session, 10**9) == low[0], "an unknown batch did not lead to the oldest one"
    (high,) = cut(database, submit(database, 16, name="high", priority=9))
    with database.write() as session:
        assert most_urgent(session, low[1]) == high
        assert claim(session, high, owner="one", lease_seconds=60)
    with database.write() as session:
        assert most_urgent(session, high) == low[0]
        assert claim(session, high, owner="other", lease_seconds=60) is None


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("08006", "database-unreachable"), ("08P01", "database-unreachable"), ("25006", "database-read-only"),
        ("25P03", "database-busy"), ("40001", "database-busy"), ("40002", "database-failed"),
        ("40P01", "database-busy"), ("42501", "database-refused"), ("53100", "database-full"),
        ("53300", "database-unreachable"), ("53400", "database-refused"), ("54000", "database-refused"),
        ("55P02", "database-refused"), ("55P03", "database-busy"), ("57014", "database-busy"),
        ("57P01", "database-unreachable"), ("57P04", "database-unreachable"), ("58030", "database-full"),
        ("22003", "database-failed"), ("XX002", "database-damaged"),
    ],
)  # fmt: skip
def test_postgresql_errors_are_told_apart_by_their_codes(postgres: object, code: str, kind: str) -> None:
    from pydantic import SecretStr
    from sqlalchemy import text

    from db.settings import DatabaseSettings

    url = str(postgres.get_uri("postgres"))  # type: ignore[attr-defined]
    database = Database(DatabaseSettings(database_url=SecretStr(url)))
    raising = text(f"DO $$ BEGIN RAISE EXCEPTION 'the text of a row' USING ERRCODE = '{code}'; END $$")
    try:
        with pytest.raises(DatabaseFailed) as caught, database.write() as session:
            session.execute(raising)
    finally:
        database.close()
    assert caught.value.code == kind
    assert "row" not in str(caught.value)
