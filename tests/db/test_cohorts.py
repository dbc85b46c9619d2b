"""Concurrent transactions on one cohort, on SQLite and on PostgreSQL: each sees the changes of the other."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

import pytest
from sqlalchemy import event, select, update
from sqlalchemy.orm import ORMExecuteState, Session

from db.audit.chain import newest
from db.engine import Database
from db.jobs.batches import cut_batches
from db.jobs.cohorts import (
    PRIORITIES,
    CohortArchived,
    CohortNameInvalid,
    CohortUnknown,
    PriorityOutOfRange,
    cancel,
    find_cohort,
    open_cohort,
    retry,
)
from db.jobs.sweep import ATTEMPTS, expire_batches
from db.queries.progress import progress
from db.states import BatchState, CohortState, ImageState
from db.tables import Batch, Cohort, Image
from db.upkeep.archive import CohortNotFinished, remove_rows, stamp
from tests.db.test_batches import cut, finish, held, lose, submit
from tests.faults.invariant import check

#: Seconds that are enough for a transaction that waits for no lock.
MOMENT = 1.0

Work = Callable[[Session], object]


def in_transaction(database: Database, work: Work) -> object:
    with database.write() as session:
        return work(session)


def before_the_commit(database: Database, first: Work, second: Work) -> object:
    """Start `second` after `first` has done its work and before it commits; return the result of `second`."""
    with ThreadPoolExecutor() as pool:
        with database.write() as session:
            first(session)
            other = pool.submit(in_transaction, database, second)
            wait([other], timeout=MOMENT)
        return other.result()


def cancel_it(session: Session) -> int:
    return cancel(session, find_cohort(session, "trial"))


def retry_it(session: Session) -> int:
    return retry(session, find_cohort(session, "trial"))


def lose_what_is_left(database: Database) -> None:
    """Expire every lease, more often than a batch may be lost."""
    for _ in range(ATTEMPTS + 1):
        with database.write() as session:
            session.execute(update(Batch).where(Batch.lease_until.is_not(None)).values(lease_until=0.0))
        in_transaction(database, expire_batches)


def assert_cancelled(database: Database) -> None:
    check(database, ended=True)
    with database.read() as session:
        assert set(session.scalars(select(Image.state))) == {ImageState.SKIPPED}


@pytest.mark.usefixtures("model")
def test_a_batch_that_is_swept_while_its_cohort_is_cancelled_is_not_screened(database: Database) -> None:
    (batch_id,) = cut(database, submit(database, 16))
    held(database, batch_id, lease_seconds=-1)
    before_the_commit(database, expire_batches, cancel_it)
    assert_cancelled(database)


@pytest.mark.usefixtures("model")
def test_a_batch_whose_cohort_is_cancelled_while_it_is_swept_is_not_screened(database: Database) -> None:
    (batch_id,) = cut(database, submit(database, 16))
    held(database, batch_id, lease_seconds=-1)
    before_the_commit(database, cancel_it, expire_batches)
    lose_what_is_left(database)
    assert_cancelled(database)


@pytest.mark.usefixtures("model")
def test_a_sweep_between_two_statements_of_a_cancel_leaves_no_batch_behind(database: Database) -> None:
    (batch_id,) = cut(database, submit(database, 16))
    held(database, batch_id, lease_seconds=-1)
    sweeps: list[Future[object]] = []
    with ThreadPoolExecutor() as pool, database.write() as session:

        @event.listens_for(session, "do_orm_execute")
        def _sweep(state: ORMExecuteState) -> None:
            if state.is_update and state.bind_mapper is Image.__mapper__:
                sweeps.append(pool.submit(in_transaction, database, expire_batches))
                wait(sweeps, timeout=MOMENT)

        cancel_it(session)
    (sweep,) = sweeps
    assert sweep.exception() is None
    lose_what_is_left(database)
    assert_cancelled(database)


@pytest.mark.usefixtures("model")
def test_a_batch_without_images_does_not_stop_the_sweeper(database: Database) -> None:
    cohort_id = submit(database, 32)
    (batch_id, other) = cut(database, cohort_id)
    lose(database, batch_id)
    held(database, batch_id, lease_seconds=-1)
    held(database, other, lease_seconds=-1)
    with database.write() as session:
        session.execute(
            update(Image).where(Image.batch_id == batch_id).values(state=ImageState.PENDING, batch_id=None)
        )
        assert expire_batches(session) == 2
        states = session.scalars(select(Batch.state).order_by(Batch.id)).all()
    assert states == [BatchState.SPLIT, BatchState.QUEUED]


@pytest.mark.parametrize(("first", "second"), [(retry_it, cancel_it), (cancel_it, retry_it)])
@pytest.mark.usefixtures("model")
def test_the_later_of_a_concurrent_cancel_and_retry_wins(
    database: Database, first: Work, second: Work
) -> None:
    cohort_id = submit(database, 16)
    (batch_id,) = cut(database, cohort_id)
    finish(database, held(database, batch_id), bad=4)
    before_the_commit(database, first, second)
    with database.read() as session:
        (now,) = progress(session)
    expected = (CohortState.CANCELLED, 0) if second is cancel_it else (CohortState.READY, 4)
    assert (now.state, now.pending) == expected
    with database.write() as session:
        assert len(cut_batches(session, cohort_id, batch_images=16, in_flight=9)) == (now.pending > 0)


def archive_it(session: Session) -> None:
    cohort_id = find_cohort(session, "trial").id
    remove_rows(session, cohort_id, stamp(session, cohort_id), file="a.parquet", digest="0" * 64)


@pytest.mark.usefixtures("model")
def test_a_cohort_that_is_being_retried_is_not_archived(database: Database) -> None:
    (batch_id,) = cut(database, submit(database, 16))
    finish(database, held(database, batch_id), bad=4)
    with pytest.raises(CohortNotFinished):
        before_the_commit(database, retry_it, archive_it)
    with database.read() as session:
        assert progress(session)[0].pending == 4


@pytest.mark.usefixtures("model")
def test_a_cohort_that_is_being_archived_accepts_no_images(database: Database) -> None:
    (batch_id,) = cut(database, submit(database, 16))
    finish(database, held(database, batch_id))
    with pytest.raises(CohortArchived):
        before_the_commit(database, archive_it, lambda session: open_cohort(session, "trial", source="/data"))


def open_it(session: Session) -> int:
    return open_cohort(session, "new", source="/data").id


def test_two_concurrent_first_submits_of_one_cohort_share_it(database: Database) -> None:
    first: list[int] = []
    second = before_the_commit(database, lambda session: first.append(open_it(session)), open_it)
    assert first == [second]
    with database.read() as session:
        assert [one.name for one in progress(session)] == ["new"]


def test_a_cohort_keeps_its_priority_unless_another_one_is_given(database: Database) -> None:
    for given, expected in ((None, 0), (5, 5), (None, 5), (0, 0), (None, 0)):
        with database.write() as session:
            assert open_cohort(session, "trial", source="/data", priority=given).priority == expected


@pytest.mark.parametrize("priority", [2**31, -(2**31) - 1, 10**30])
def test_a_priority_outside_the_range_of_the_column_is_refused(database: Database, priority: int) -> None:
    with pytest.raises(PriorityOutOfRange), database.write() as session:
        open_cohort(session, "trial", source="/data", priority=priority)
    for at_the_edge in (PRIORITIES.start, PRIORITIES.stop - 1):
        with database.write() as session:
            assert open_cohort(session, "edge", source="/data", priority=at_the_edge)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "  ",
        "a\nb",
        "a\tb",
        "\x1b[31mred",
        "\x9b31m",
        "a\u202eb",
        "a\u2028b",
        "\ufeffa",
        "\udcff",
        "x" * 201,
    ],
)
def test_a_name_that_cannot_be_displayed_exactly_is_refused(database: Database, name: str) -> None:
    with pytest.raises(CohortNameInvalid), database.write() as session:
        open_cohort(session, name, source="/data")
    with pytest.raises(CohortUnknown), database.read() as session:
        find_cohort(session, name)
    with pytest.raises(CohortUnknown), database.read() as session:
        progress(session, [name])


@pytest.mark.parametrize("name", ["trial 7", "[bold]", "Überprüfung", "\u80ba\u708e", "x" * 200, "-", "a/b"])
def test_a_name_that_can_be_displayed_exactly_is_accepted(database: Database, name: str) -> None:
    with database.write() as session:
        assert open_cohort(session, name, source="/data").name == name


def test_a_cohort_with_an_invalid_name_of_an_earlier_version_still_works(database: Database) -> None:
    with database.write() as session:
        session.add(Cohort(name="a\x1b[31m", source="/data", state=CohortState.READY))
    with database.write() as session:
        assert open_cohort(session, "a\x1b[31m", source="/data").state is CohortState.INGESTING


@pytest.mark.usefixtures("model")
def test_a_finished_cohort_that_is_cancelled_stays_finished(database: Database) -> None:
    (batch_id,) = cut(database, submit(database, 4))
    finish(database, held(database, batch_id))
    with database.write() as session:
        assert cancel_it(session) == 0
    with database.read() as session:
        (now,) = progress(session)
        assert (now.state, now.finished, now.done) == (CohortState.READY, True, 4)
        assert newest(session)[-1].action != "cohort.cancel"


@pytest.mark.usefixtures("model")
def test_a_cohort_whose_last_images_are_screened_can_be_cancelled(database: Database) -> None:
    (batch_id,) = cut(database, submit(database, 4))
    held(database, batch_id)
    with database.write() as session:
        assert cancel_it(session) == 0, "a worker has all images, and finishes them"
    with database.read() as session:
        assert progress(session)[0].state is CohortState.CANCELLED
