"""Ingests under a lease: a cohort is closed once all its sources were walked, and then takes nothing in."""

from __future__ import annotations

import pytest
from sqlalchemy import select, update

from db.engine import Database
from db.jobs.claims import LeaseLost
from db.jobs.cohorts import CohortArchived, cancel, close_ingest, find_cohort, open_cohort, retry
from db.jobs.images import NewImage, add_images
from db.jobs.ingests import (
    CohortCancelled,
    CohortClosed,
    IngestLease,
    IngestTakenOver,
    begin_ingest,
    break_off,
    end_ingest,
    expire_ingests,
    keep_ingest,
)
from db.queries.progress import progress
from db.states import CohortState, IngestState
from db.tables import Image, Ingest
from db.upkeep.archive import cohorts_to_archive, remove_rows, stamp
from tests.db.test_batches import cut, finish, held
from tests.faults.invariant import check

pytestmark = pytest.mark.usefixtures("model")


def begin(database: Database, source: str = "/a", *, lease_seconds: float = 60) -> IngestLease:
    with database.write() as session:
        cohort = open_cohort(session, "trial", source=source)
        return begin_ingest(session, cohort.id, source, owner="host:1", lease_seconds=lease_seconds)


def add(database: Database, lease: IngestLease, *names: str) -> int:
    with database.write() as session:
        return add_images(session, lease.cohort_id, [NewImage(uri=name) for name in names], ingest=lease)


def end(database: Database, lease: IngestLease) -> None:
    with database.write() as session:
        end_ingest(session, lease)


def state(database: Database) -> tuple[str, bool]:
    check(database)
    with database.read() as session:
        (now,) = progress(session)
    return now.state, now.ingest_broke_off


def screen_all(database: Database, cohort_id: int) -> None:
    for batch_id in cut(database, cohort_id):
        finish(database, held(database, batch_id))


def test_of_two_feeders_the_last_one_closes_the_cohort(database: Database) -> None:
    one, other = begin(database, "/a"), begin(database, "/b")
    add(database, one, "/a/1")
    end(database, one)
    assert state(database) == ("ingesting", False)
    screen_all(database, one.cohort_id)
    with database.read() as session:
        assert not progress(session)[0].finished
        assert cohorts_to_archive(session, older_than_seconds=-1) == []
    assert add(database, other, "/b/1") == 1
    end(database, other)
    assert state(database) == ("ready", False)


def test_a_closed_cohort_takes_nothing_in(database: Database) -> None:
    lease = begin(database)
    end(database, lease)
    with pytest.raises(CohortClosed):
        add(database, lease, "/a/1")
    with pytest.raises(CohortClosed), database.write() as session:
        add_images(session, lease.cohort_id, [NewImage(uri="/a/1")])


def test_an_archived_cohort_takes_nothing_in(database: Database) -> None:
    lease = begin(database)
    add(database, lease, "/a/1")
    end(database, lease)
    screen_all(database, lease.cohort_id)
    with database.write() as session:
        stamped = stamp(session, lease.cohort_id)
        remove_rows(session, lease.cohort_id, stamped, file="a.parquet", digest="0" * 64)
    for shown in (lease, None):
        with pytest.raises(CohortArchived), database.write() as session:
            add_images(session, lease.cohort_id, [NewImage(uri="/a/2")], ingest=shown)
    with database.read() as session:
        assert session.scalars(select(Image.id)).all() == []


def test_a_cancelled_cohort_takes_nothing_in_and_has_no_ingest_left(database: Database) -> None:
    lease = begin(database)
    with database.write() as session:
        cancel(session, find_cohort(session, "trial"))
    with pytest.raises(CohortCancelled):
        add(database, lease, "/a/1")
    with pytest.raises(LeaseLost), database.write() as session:
        keep_ingest(session, lease)
    with database.write() as session:
        retry(session, find_cohort(session, "trial"))
    assert state(database) == ("ready", False)
    with pytest.raises(CohortClosed):
        add(database, lease, "/a/1")


def test_an_ingest_whose_lease_ended_has_broken_off_and_keeps_the_cohort_open(database: Database) -> None:
    dead, alive = begin(database, "/a", lease_seconds=-1), begin(database, "/b")
    with database.write() as session:
        assert expire_ingests(session) == 1
        assert expire_ingests(session) == 0
    assert state(database) == ("ingesting", False), "the other one goes on"
    end(database, alive)
    assert state(database) == ("ingesting", True)
    with database.write() as session:
        close_ingest(session, dead.cohort_id)
    assert state(database) == ("ingesting", True), "half a source was taken for a whole one"
    end(database, begin(database, "/a"))
    assert state(database) == ("ready", False)


def test_an_ingest_long_dead_shows_as_broken_off_without_a_sweeper(database: Database) -> None:
    begin(database, lease_seconds=-1000)
    assert state(database) == ("ingesting", True)


def test_a_command_that_was_taken_for_dead_goes_on_while_the_cohort_is_open(database: Database) -> None:
    lease = begin(database, lease_seconds=-1)
    with database.write() as session:
        expire_ingests(session)
    assert add(database, lease, "/a/1") == 1
    assert state(database) == ("ingesting", False)
    end(database, lease)
    assert state(database) == ("ready", False)


def test_the_same_source_submitted_again_takes_the_ingest_over(database: Database) -> None:
    first, second = begin(database), begin(database)
    with pytest.raises(IngestTakenOver):
        add(database, first, "/a/1")
    with pytest.raises(LeaseLost), database.write() as session:
        keep_ingest(session, first)
    with database.write() as session:
        break_off(session, first)
    assert state(database) == ("ingesting", False), "the first one broke the second one's ingest off"
    add(database, second, "/a/1")
    end(database, second)
    with pytest.raises(IngestTakenOver):
        end(database, first)
    with database.read() as session:
        assert session.scalars(select(Ingest.state)).all() == [IngestState.ENDED]


def test_an_ingest_under_lease_opens_a_cohort_that_an_earlier_version_closed(database: Database) -> None:
    lease = begin(database)
    with database.write() as session:
        find_cohort(session, "trial").state = CohortState.READY
        add_images(session, lease.cohort_id, [NewImage(uri="/a/1")], ingest=lease)
    assert state(database) == ("ingesting", False)


def test_heartbeats_keep_an_ingest(database: Database) -> None:
    lease = begin(database)
    with database.write() as session:
        session.execute(update(Ingest).values(lease_until=1.0))
        keep_ingest(session, lease)
        assert expire_ingests(session) == 0
