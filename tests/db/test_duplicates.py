"""Copies of one SOP Instance: one is screened at a time; if it fails, the next one is."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait

import pytest
from sqlalchemy import select, update

from db.engine import Database
from db.jobs.claims import Claim, NotScreened, complete
from db.jobs.cohorts import cancel, find_cohort, mark_ready, open_cohort, retry
from db.jobs.images import NewImage, add_images
from db.jobs.problems import CorruptImage, FileVanished, ImageProblem, LateralView, NoPixels
from db.jobs.sweep import expire_batches
from db.queries.progress import progress
from db.states import ImageState
from db.tables import Batch, Image
from db.upkeep.archive import stamp
from tests.db.test_batches import EFFORT, PROVENANCE, cut, finish, held
from tests.faults.invariant import check

pytestmark = pytest.mark.usefixtures("model")

#: Seconds that are enough for a transaction that waits for no lock.
MOMENT = 1.0


def take_in(database: Database, *names: str, instance: str = "1.2.3") -> int:
    with database.write() as session:
        cohort = open_cohort(session, "trial", source="/data")
        add_images(session, cohort.id, [NewImage(uri=f"/data/{n}", instance_uid=instance) for n in names])
        mark_ready(session, cohort.id)
        return cohort.id


def found(database: Database) -> list[str]:
    """Return each image's state, or its problem, in the order of the rows."""
    check(database)
    with database.read() as session:
        rows = session.execute(select(Image.state, Image.problem).order_by(Image.id)).all()
    return [problem or str(state) for state, problem in rows]


def fail(database: Database, claimed: Claim, problem: ImageProblem) -> None:
    with database.write() as session:
        bad = [NotScreened(item.image_id, problem) for item in claimed.images]
        complete(session, claimed, [], bad, PROVENANCE, EFFORT)


def screen_next(database: Database, cohort_id: int, problem: ImageProblem | None = None) -> None:
    """Screen what is pending: successfully, or with a problem."""
    for batch_id in cut(database, cohort_id):
        claimed = held(database, batch_id)
        if problem is None:
            finish(database, claimed)
        else:
            fail(database, claimed, problem)


def test_a_duplicate_takes_over_when_its_twin_fails_and_the_next_one_when_that_fails_too(
    database: Database,
) -> None:
    cohort_id = take_in(database, "a", "b", "c")
    screen_next(database, cohort_id, CorruptImage())
    assert found(database) == ["corrupt-image", "pending", "duplicate-instance"]
    screen_next(database, cohort_id, FileVanished())
    assert found(database) == ["corrupt-image", "file-vanished", "pending"]
    screen_next(database, cohort_id)
    assert found(database) == ["corrupt-image", "file-vanished", "done"]
    with database.read() as session:
        (now,) = progress(session)
    assert (now.total, now.done, now.failed, now.finished) == (3, 1, 2, True)


@pytest.mark.parametrize(
    ("problem", "expected"), [(NoPixels(), "pending"), (LateralView(), "duplicate-instance")]
)
def test_a_duplicate_takes_over_if_the_file_was_at_fault_but_not_if_the_instance_was(
    database: Database, problem: ImageProblem, expected: str
) -> None:
    screen_next(database, take_in(database, "a", "b"), problem)
    assert found(database) == [problem.code, expected]


def test_images_without_instance_or_of_another_instance_never_take_over(database: Database) -> None:
    cohort_id = take_in(database, "a", "b")
    take_in(database, "c", "d", instance="4.5.6")
    with database.write() as session:
        open_cohort(session, "trial", source="/data")
        add_images(session, cohort_id, [NewImage(uri="/data/e"), NewImage(uri="/data/f")])
        mark_ready(session, cohort_id)
    (batch_id,) = cut(database, cohort_id)
    claimed = held(database, batch_id)
    assert [item.instance_uid for item in claimed.images[1:]] == ["4.5.6", None, None]
    finish(database, claimed, bad=1)
    assert found(database) == ["corrupt-image", "pending", "done", "duplicate-instance", "done", "done"]


def test_a_duplicate_takes_over_from_an_image_that_kills_workers(database: Database) -> None:
    cohort_id = take_in(database, "a", "b")
    cut(database, cohort_id)
    for _ in range(2):
        with database.write() as session:
            (batch_id,) = session.scalars(select(Batch.id).where(Batch.state == "queued"))
        held(database, batch_id, lease_seconds=-1)
        with database.write() as session:
            assert expire_batches(session) == 1
    assert found(database) == ["worker-lost", "pending"]


def test_no_duplicate_takes_over_in_a_cancelled_cohort_and_retry_starts_with_the_first_copy(
    database: Database,
) -> None:
    cohort_id = take_in(database, "a", "b")
    (batch_id,) = cut(database, cohort_id)
    claimed = held(database, batch_id)
    with database.write() as session:
        cancel(session, find_cohort(session, "trial"))
    fail(database, claimed, CorruptImage())
    assert found(database) == ["corrupt-image", "duplicate-instance"], "the cancelled cohort continued"
    with database.write() as session:
        assert retry(session, find_cohort(session, "trial")) == 1
    assert found(database) == ["pending", "duplicate-instance"]
    with database.write() as session:
        cancel(session, find_cohort(session, "trial"))
    take_in(database, "c")
    assert found(database) == ["cancelled", "duplicate-instance", "duplicate-instance"]


def test_retry_marks_a_failed_image_as_duplicate_if_another_copy_was_screened(database: Database) -> None:
    cohort_id = take_in(database, "a", "b")
    screen_next(database, cohort_id, CorruptImage())
    screen_next(database, cohort_id)
    with database.write() as session:
        assert retry(session, find_cohort(session, "trial")) == 0
    assert found(database) == ["duplicate-instance", "done"]
    check(database, ended=True)


def test_retry_tries_several_failed_copies_one_after_the_other(database: Database) -> None:
    cohort_id = take_in(database, "a", "b")
    for _ in range(2):
        screen_next(database, cohort_id, CorruptImage())
    assert found(database) == ["corrupt-image", "corrupt-image"]
    with database.write() as session:
        assert retry(session, find_cohort(session, "trial")) == 1
    assert found(database) == ["pending", "duplicate-instance"]
    screen_next(database, cohort_id, CorruptImage())
    screen_next(database, cohort_id)
    assert found(database) == ["corrupt-image", "done"]


def test_a_copy_that_comes_after_the_first_has_failed_is_screened(database: Database) -> None:
    cohort_id = take_in(database, "a")
    screen_next(database, cohort_id, FileVanished())
    take_in(database, "b", "c")
    assert found(database) == ["file-vanished", "pending", "duplicate-instance"]


def test_a_new_submit_or_a_retry_screens_a_duplicate_without_a_screened_copy(database: Database) -> None:
    cohort_id = take_in(database, "a", "b", "c")
    for way in ("submit", "retry"):
        with database.write() as session:  # the state that a worker of an earlier version leaves
            session.execute(update(Image).values(state=ImageState.SKIPPED, problem="duplicate-instance"))
            session.execute(update(Image).where(Image.uri == "/data/a").values(problem="no-pixels"))
        if way == "submit":
            take_in(database, "a")
        else:
            with database.write() as session:
                assert retry(session, find_cohort(session, "trial")) == 1
        assert found(database) == ["no-pixels", "pending", "duplicate-instance"], way
    screen_next(database, cohort_id)
    with database.read() as session:
        assert stamp(session, cohort_id).counts.done == 1


@pytest.mark.parametrize("first", ["complete", "ingest"])
def test_a_copy_that_is_ingested_while_the_first_one_fails_is_screened(
    database: Database, first: str
) -> None:
    cohort_id = take_in(database, "a")
    (batch_id,) = cut(database, cohort_id)
    claimed = held(database, batch_id)
    bad = [NotScreened(claimed.images[0].image_id, CorruptImage())]

    def ingest() -> None:
        take_in(database, "b")

    def lose() -> None:
        fail(database, claimed, CorruptImage())

    with ThreadPoolExecutor() as pool:
        with database.write() as session:
            if first == "complete":
                complete(session, claimed, [], bad, PROVENANCE, EFFORT)
            else:
                open_cohort(session, "trial", source="/data")
                add_images(session, cohort_id, [NewImage(uri="/data/b", instance_uid="1.2.3")])
                mark_ready(session, cohort_id)
            other = pool.submit(ingest if first == "complete" else lose)
            wait([other], timeout=MOMENT)
        other.result()
    assert found(database) == ["corrupt-image", "pending"]


def test_two_batches_that_fail_at_once_hand_each_instance_to_one_copy(database: Database) -> None:
    instances = [f"1.2.{number}" for number in range(40)]
    with database.write() as session:
        cohort = open_cohort(session, "trial", source="/data")
        for copy in ("a", "b", "c"):
            images = [NewImage(uri=f"/data/{copy}/{uid}", instance_uid=uid) for uid in instances]
            add_images(session, cohort.id, images)
        mark_ready(session, cohort.id)
    while batches := cut(database, cohort.id, batch_images=16):
        claims = [held(database, batch_id) for batch_id in batches]
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda claimed: fail(database, claimed, CorruptImage()), claims))
        with database.read() as session:
            waiting = session.scalars(select(Image.instance_uid).where(Image.state == "pending")).all()
        assert len(waiting) == len(set(waiting)), "two copies of one instance are screened"
        assert len(waiting) in (40, 0)
    assert found(database) == ["corrupt-image"] * 120
