"""Ingests under a lease: a cohort is ready once all its sources were read, and then accepts no images."""

from __future__ import annotations

import pytest
from sqlalchemy import select, update

from db.engine import Database
from db.jobs.cohorts import CohortArchived, cancel, find_cohort, mark_ready, open_cohort, retry
from db.jobs.images import NewImage, add_images
from db.jobs.ingests import (
    CohortCancelled,
    CohortClosed,
    HeldIngest,
    IngestTakenOver,
    begin_ingest,
    break_off,
    end_ingest,
    expire_ingests,
)
from db.lease import LeaseLost, renew
from db.queries.progress import progress
from db.states import CohortState, IngestState
from db.tables import Image, Ingest
from db.upkeep.archive import cohorts_to_archive, remove_rows, stamp
from tests.db.test_batches import cut, finish, held
from tests.faults.invariant import check

pytestmark = pytest.mark.usefixtures("model")


def begin(database: Database, source: str = "/a", *, lease_seconds: float = 60) -> HeldIngest:
    with database.write() as session:
        cohort = open_cohort(session, "trial", source=source)
        return begin_ingest(session, cohort.id, source, owner="host:1", lease_seconds=lease_seconds)


def add(database: Database, ingest: HeldIngest, *names: str) -> int:
    with database.write() as session:
        return add_images(session, ingest.cohort_id, [NewImage(uri=name) for name in names], ingest=ingest)


def end(database: Database, ingest: HeldIngest) -> None:
    with database.write() as session:
        end_ingest(session, ingest)


def state(database: Database) -> tuple[str, bool]:
    check(database)
    with database.read() as session:
        (now,) = progress(session)
    return now.state, now.ingest_broke_off


def screen_all(database: Database, cohort_id: int) -> None:
    for batch_id in cut(database, cohort_id):
        finish(database, held(database, batch_id))


def test_the_last_of_two_feeders_closes_the_cohort(database: Database) -> None:
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


def test_a_closed_cohort_accepts_no_images(database: Database) -> None:
    ingest = begin(database)
    end(database, ingest)
    with pytest.raises(CohortClosed):
        add(database, ingest, "/a/1")
    with pytest.raises(CohortClosed), database.write() as session:
        add_images(session, ingest.cohort_id, [NewImage(uri="/a/1")])


def test_an_archived_cohort_accepts_no_images(database: Database) -> None:
    ingest = begin(database)
    add(database, ingest, "/a/1")
    end(database, ingest)
    screen_all(database, ingest.cohort_id)
    with database.write() as session:
        stamped = stamp(session, ingest.cohort_id)
        remove_rows(session, ingest.cohort_id, stamped, file="a.parquet", digest="0" * 64)
    for shown in (ingest, None):
        with pytest.raises(CohortArchived), database.write() as session:
            add_images(session, ingest.cohort_id, [NewImage(uri="/a/2")], ingest=shown)
    with database.read() as session:
        assert session.scalars(select(Image.id)).all() == []


def test_a_cancelled_cohort_accepts_no_images_and_has_no_open_ingest(database: Database) -> None:
    ingest = begin(database)
    with database.write() as session:
        cancel(session, find_cohort(session, "trial"))
    with pytest.raises(CohortCancelled):
        add(database, ingest, "/a/1")
    with pytest.raises(LeaseLost), database.write() as session:
        renew(session, ingest.lease)
    with database.write() as session:
        retry(session, find_cohort(session, "trial"))
    assert state(database) == ("ready", False)
    with pytest.raises(CohortClosed):
        add(database, ingest, "/a/1")


def test_an_ingest_whose_lease_expired_is_broken_off_and_keeps_the_cohort_open(database: Database) -> None:
    dead, alive = begin(database, "/a", lease_seconds=-1), begin(database, "/b")
    with database.write() as session:
        assert expire_ingests(session) == 1
        assert expire_ingests(session) == 0
    assert state(database) == ("ingesting", False), "the cohort was closed while another ingest runs"
    end(database, alive)
    assert state(database) == ("ingesting", True)
    with database.write() as session:
        mark_ready(session, dead.cohort_id)
    assert state(database) == ("ingesting", True), "a partly read source counts as read"
    end(database, begin(database, "/a"))
    assert state(database) == ("ready", False)


def test_an_ingest_long_dead_shows_as_broken_off_without_a_sweeper(database: Database) -> None:
    begin(database, lease_seconds=-1000)
    assert state(database) == ("ingesting", True)


def test_a_feeder_whose_lease_expired_can_continue_while_the_cohort_is_open(database: Database) -> None:
    ingest = begin(database, lease_seconds=-1)
    with database.write() as session:
        expire_ingests(session)
    assert add(database, ingest, "/a/1") == 1
    assert state(database) == ("ingesting", False)
    end(database, ingest)
    assert state(database) == ("ready", False)


def test_the_same_source_submitted_again_takes_over_the_ingest(database: Database) -> None:
    first, second = begin(database), begin(database)
    with pytest.raises(IngestTakenOver):
        add(database, first, "/a/1")
    with pytest.raises(LeaseLost), database.write() as session:
        renew(session, first.lease)
    with database.write() as session:
        break_off(session, first)
    assert state(database) == ("ingesting", False), "the first feeder broke off the second feeder's ingest"
    add(database, second, "/a/1")
    end(database, second)
    with pytest.raises(IngestTakenOver):
        end(database, first)
    with database.read() as session:
        assert session.scalars(select(Ingest.state)).all() == [IngestState.ENDED]


def test_an_ingest_under_lease_opens_a_cohort_that_an_earlier_version_closed(database: Database) -> None:
    ingest = begin(database)
    with database.write() as session:
        find_cohort(session, "trial").state = CohortState.READY
        add_images(session, ingest.cohort_id, [NewImage(uri="/a/1")], ingest=ingest)
    assert state(database) == ("ingesting", False)


def test_heartbeats_renew_the_lease_of_an_ingest(database: Database) -> None:
    ingest = begin(database)
    with database.write() as session:
        session.execute(update(Ingest).values(lease_until=1.0))
        renew(session, ingest.lease)
        assert expire_ingests(session) == 0
