"""The counters of the database, compared with the images and batches that they count."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest
from sqlalchemy import delete, func, insert, select, text, update

from db.clock import database_now
from db.engine import Database
from db.jobs.batches import cut_batches
from db.jobs.claims import Effort, NotScreened, claim, complete, requeue
from db.jobs.cohorts import cancel, find_cohort, mark_ready, open_cohort, retry
from db.jobs.images import NewImage, add_images
from db.jobs.problems import CorruptImage
from db.jobs.sweep import expire_batches
from db.models.predictions import Provenance, Screened
from db.queries.counts import count_images
from db.queries.progress import progress
from db.queries.totals import batch_totals
from db.states import BatchState, CohortState, ImageState
from db.tables import Batch, Cohort, Image, ImageCount, Model
from db.upkeep.counters import Difference, compare, fold, recount
from db.upkeep.ended_batches import count_ended
from scheduler.exports.archive import prune

IMAGES = 20


@pytest.fixture
def cohort_id(database: Database, model: Model) -> int:
    """Submit a cohort and return its id."""
    with database.write() as session:
        cohort = open_cohort(session, "trial", source="/data")
        add_images(session, cohort.id, [NewImage(uri=f"/data/{number}.png") for number in range(IMAGES)])
        mark_ready(session, cohort.id)
    return cohort.id


def cut(database: Database, cohort_id: int, images: int) -> int:
    with database.write() as session:
        (batch_id,) = cut_batches(session, cohort_id, batch_images=images, in_flight=1)
    return batch_id


def screen(database: Database, batch_id: int, *, bad: int = 0) -> None:
    with database.write() as session:
        claimed = claim(session, batch_id, owner="tester", lease_seconds=60)
        assert claimed is not None
        ids = [item.image_id for item in claimed.images]
        complete(
            session,
            claimed,
            [
                Screened(
                    image_id=one, probability=0.5, label="NORMAL", precision="fp32", input_digest=f"d{one}"
                )
                for one in ids[bad:]
            ],
            [NotScreened(one, CorruptImage()) for one in ids[:bad]],
            Provenance(threshold=0.5, runtime="r", preprocessing="p", software="s"),
            Effort(decode_seconds=1.0, forward_seconds=2.0, gpu_memory_bytes=None),
        )


def lose(database: Database, batch_id: int) -> None:
    """Claim a batch and expire its lease."""
    with database.write() as session:
        assert claim(session, batch_id, owner="tester", lease_seconds=60) is not None
        session.execute(update(Batch).where(Batch.id == batch_id).values(lease_until=database_now() - 1))
        assert expire_batches(session) == 1


def differences(database: Database) -> list[Difference]:
    with database.read() as session:
        return compare(session)


def shards(database: Database) -> set[int]:
    with database.read() as session:
        return set(session.scalars(select(ImageCount.shard)))


def test_counters_follow_an_image_from_its_ingest_to_its_archive(
    database: Database, cohort_id: int, tmp_path: Path
) -> None:
    batch_id = cut(database, cohort_id, 16)
    assert differences(database) == []
    screen(database, batch_id, bad=3)
    assert differences(database) == []
    with database.write() as session:
        fold(session)
        counts = count_images(session)
    assert counts == {
        cohort_id: {
            (ImageState.DONE, ""): 13,
            (ImageState.FAILED, "corrupt-image"): 3,
            (ImageState.PENDING, ""): 4,
        }
    }
    with database.write() as session:
        cohort = find_cohort(session, "trial")
        cancel(session, cohort)
        assert compare(session) == []
        retry(session, cohort)
        assert compare(session) == []
        cancel(session, cohort)
        session.execute(update(Cohort).values(created_at=1.0))
    assert len(prune(database, tmp_path / "archive", days=1)) == 1
    with database.write() as session:
        fold(session)
        assert session.scalars(select(ImageCount)).all() == []
        (trial,) = progress(session, ["trial"])
    assert (trial.total, trial.done, trial.problems) == (20, 13, {"cancelled": 7})


def test_counters_are_right_after_any_statement_that_changes_images(
    database: Database, cohort_id: int
) -> None:
    with database.write() as session:
        other = open_cohort(session, "other", source="/data")
        ids = session.scalars(select(Image.id).order_by(Image.id)).all()
        session.execute(  # image by image, as a worker of an earlier version writes
            update(Image), [{"id": one, "state": ImageState.FAILED, "problem": "x"} for one in ids[:5]]
        )
        session.execute(update(Image).where(Image.id == ids[0]).values(problem="y"))
        session.execute(update(Image).where(Image.id == ids[1]).values(attempts=9))
        session.execute(update(Image).where(Image.id.in_(ids[10:12])).values(cohort_id=other.id))
        session.execute(delete(Image).where(Image.id == ids[19]))
        assert compare(session) == []
        assert count_images(session, [other.id]) == {other.id: {(ImageState.PENDING, ""): 2}}
    fold_and_compare(database)
    with database.write() as session:
        session.execute(text("DELETE FROM images"))
    fold_and_compare(database)
    with database.read() as session:
        assert count_images(session) == {}


def fold_and_compare(database: Database) -> None:
    with database.write() as session:
        fold(session)
    assert differences(database) == []
    assert shards(database) <= {0}


def test_a_rolled_back_change_is_not_counted(database: Database, cohort_id: int) -> None:
    with pytest.raises(ZeroDivisionError), database.write() as session:
        session.execute(delete(Image))
        raise ZeroDivisionError
    assert differences(database) == []
    with database.read() as session:
        assert count_images(session)[cohort_id] == {(ImageState.PENDING, ""): IMAGES}


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_concurrent_transactions_wait_for_no_counter(database: Database, cohort_id: int) -> None:
    """Two workers finish batches of one cohort while a third holds the cohort's own row."""
    with database.read() as session:
        first, second, *_ = session.scalars(select(Image.id).order_by(Image.id)).all()
    failed = {"state": ImageState.FAILED, "problem": "x"}
    with database.write() as one, database.write() as other, database.write() as third:
        other.execute(text("SET LOCAL lock_timeout = '2s'"))
        third.execute(select(Cohort).where(Cohort.id == cohort_id).with_for_update())
        one.execute(update(Image).where(Image.id == first).values(**failed))
        other.execute(update(Image).where(Image.id == second).values(**failed))
        fold(other)
    fold_and_compare(database)


def test_counters_are_right_at_every_moment_while_others_write_and_fold(
    database: Database, cohort_id: int
) -> None:
    with database.read() as session:
        ids = session.scalars(select(Image.id).order_by(Image.id)).all()
    stop = threading.Event()
    errors: list[BaseException] = []

    def write(mine: list[int], seed: int) -> None:
        draw = random.Random(seed)
        while not stop.is_set():
            state = draw.choice((ImageState.PENDING, ImageState.DONE))
            some = draw.sample(mine, 3)
            with database.write() as session:
                session.execute(update(Image).where(Image.id.in_(some)).values(state=state))

    def again(do: object) -> None:
        while not stop.is_set():
            with database.write() as session:
                do(session)  # type: ignore[operator]

    def guard(run: object, *arguments: object) -> None:
        try:
            run(*arguments)  # type: ignore[operator]
        except BaseException as error:
            errors.append(error)

    jobs = [
        (write, list(ids[:10]), 1),
        (write, list(ids[10:]), 2),
        (again, fold),
        (again, fold),
        (again, recount),
    ]
    threads = [threading.Thread(target=guard, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    looks = 0
    for _ in range(60):
        with database.read() as session:
            assert compare(session) == []
            looks += 1
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert looks == 60
    fold_and_compare(database)


def test_a_counter_that_was_tampered_with_is_found_and_recounted(database: Database, cohort_id: int) -> None:
    with database.write() as session:
        fold(session)
        session.execute(update(ImageCount).values(images=7))
        session.execute(
            insert(ImageCount).values(
                cohort_id=99, state=ImageState.FAILED, problem="gone", shard=0, images=2
            )
        )
    pending = {"cohort_id": cohort_id, "state": ImageState.PENDING, "problem": ""}
    assert differences(database) == [
        Difference(**pending, counter=7, images=IMAGES),  # type: ignore[arg-type]
        Difference(cohort_id=99, state=ImageState.FAILED, problem="gone", counter=2, images=0),
    ]
    with database.write() as session:
        recount(session)
    assert differences(database) == []
    assert shards(database) == {0}


def lost_and_effort(database: Database) -> tuple[int, int, int, float]:
    with database.read() as session:
        totals = batch_totals(session)
        batches = session.execute(select(Batch.state, func.count()).group_by(Batch.state)).all()
    assert {state: total.here for state, total in totals.items() if total.here} == dict(map(tuple, batches))
    done = totals[BatchState.DONE]
    return sum(total.lost for total in totals.values()), done.batches, done.images, done.decode_seconds


def test_batch_totals_do_not_change_when_batches_are_added_up_or_archived(
    database: Database, cohort_id: int, tmp_path: Path
) -> None:
    lost = cut(database, cohort_id, 4)
    lose(database, lost)
    assert lost_and_effort(database) == (1, 0, 0, 0.0)
    with database.write() as session:
        claimed = claim(session, lost, owner="tester", lease_seconds=60)
        assert claimed is not None
        requeue(session, claimed.lease)
    assert lost_and_effort(database) == (1, 0, 0, 0.0), "a requeued batch counts as a lost lease"
    lose(database, lost)
    with database.write() as session:
        assert session.get_one(Batch, lost).state is BatchState.SPLIT
        assert count_ended(session) == 1
        assert count_ended(session) == 0
        parts = session.scalars(select(Batch.id).where(Batch.state == BatchState.QUEUED)).all()
    for batch_id in parts:
        screen(database, batch_id)
    screen(database, cut(database, cohort_id, 16))
    before = lost_and_effort(database)
    assert before == (2, len(parts) + 1, 20, len(parts) + 1.0)
    with database.write() as session:
        assert count_ended(session) == len(parts) + 1
        session.execute(update(Cohort).values(created_at=1.0))
    assert lost_and_effort(database) == before
    assert len(prune(database, tmp_path / "archive", days=1)) == 1
    assert lost_and_effort(database) == before


def test_a_cohort_archived_before_its_batches_were_added_up_stays_in_the_totals(
    database: Database, cohort_id: int, tmp_path: Path
) -> None:
    screen(database, cut(database, cohort_id, 16))
    with database.write() as session:
        cancel(session, find_cohort(session, "trial"))
        session.execute(update(Cohort).values(created_at=1.0))
    before = lost_and_effort(database)
    assert len(prune(database, tmp_path / "archive", days=1)) == 1
    assert lost_and_effort(database) == before == (0, 1, 16, 1.0)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_only_one_of_two_concurrent_sweeps_adds_a_batch_up(database: Database, cohort_id: int) -> None:
    screen(database, cut(database, cohort_id, 16))
    with database.write() as one:
        assert count_ended(one) == 1
        with database.write() as other:
            assert count_ended(other) == 0
    assert lost_and_effort(database)[1] == 1


def test_a_cancelled_or_finished_cohort_is_not_dispatched(database: Database, cohort_id: int) -> None:
    from db.jobs.batches import cohorts_to_dispatch

    with database.write() as session:
        assert cohorts_to_dispatch(session) == [cohort_id]
        session.execute(update(Cohort).values(state=CohortState.CANCELLED))
        assert cohorts_to_dispatch(session) == []
        session.execute(update(Cohort).values(state=CohortState.READY))
        session.execute(update(Image).values(state=ImageState.DONE))
        assert cohorts_to_dispatch(session) == []
