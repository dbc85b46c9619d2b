"""Batches in the job table, on SQLite and on PostgreSQL: cut, claim, complete, expire and notify."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import replace

import pytest
from sqlalchemy import func, select

from db.engine import Database
from db.jobs.batches import cohorts_to_dispatch, cut_batches
from db.jobs.claims import Claim, Effort, NotScreened, claim, complete, requeue
from db.jobs.cohorts import cancel, find_cohort, mark_ready, open_cohort, retry
from db.jobs.images import NewImage, add_images
from db.jobs.notifications import forget_notifications, mark_notified, rows_to_notify
from db.jobs.problems import CorruptImage
from db.jobs.sources import Backoff
from db.jobs.sweep import ATTEMPTS, expire_batches
from db.lease import LeaseLost, renew
from db.models.predictions import Provenance, Screened
from db.models.registry import NoChampion
from db.queries.progress import progress
from db.states import BatchState, ImageState
from db.tables import Batch, Image, Model, Prediction

PROVENANCE = Provenance(threshold=0.5, runtime="test", preprocessing="test", software="test")
#: The backoff of a worker whose model is missing.
WAIT = Backoff(code="model-missing", first_seconds=30, limit_seconds=1e6)
EFFORT = Effort(decode_seconds=0.5, forward_seconds=1.5, gpu_memory_bytes=None)


def submit(database: Database, count: int, *, name: str = "trial", priority: int = 0) -> int:
    with database.write() as session:
        cohort = open_cohort(session, name, source="/data", priority=priority)
        add_images(session, cohort.id, [NewImage(uri=f"/data/{index}.png") for index in range(count)])
        mark_ready(session, cohort.id)
        return cohort.id


def cut(database: Database, cohort_id: int, *, batch_images: int = 256, in_flight: int = 100) -> list[int]:
    with database.write() as session:
        return cut_batches(session, cohort_id, batch_images=batch_images, in_flight=in_flight)


def take(database: Database, batch_id: int, *, lease_seconds: float = 60) -> Claim | None:
    with database.write() as session:
        return claim(session, batch_id, owner="tester", lease_seconds=lease_seconds)


def held(database: Database, batch_id: int, *, lease_seconds: float = 60) -> Claim:
    claimed = take(database, batch_id, lease_seconds=lease_seconds)
    assert claimed is not None
    return claimed


def finish(database: Database, claimed: Claim, *, bad: int = 0) -> None:
    screened = [
        Screened(
            image_id=item.image_id, probability=0.9, label="PNEUMONIA", precision="fp32", input_digest="d"
        )
        for item in claimed.images[bad:]
    ]
    problems = [NotScreened(item.image_id, CorruptImage()) for item in claimed.images[:bad]]
    with database.write() as session:
        complete(session, claimed, screened, problems, PROVENANCE, EFFORT)


def lose(database: Database, batch_id: int) -> Claim:
    """Claim a batch with a lease that has already expired, and requeue it."""
    claimed = held(database, batch_id, lease_seconds=-1)
    with database.write() as session:
        assert expire_batches(session) == 1
    return claimed


def states(database: Database) -> Counter[ImageState]:
    with database.read() as session:
        return Counter(session.scalars(select(Image.state)))


def queued_batches(database: Database) -> list[int]:
    with database.read() as session:
        return list(
            session.scalars(select(Batch.id).where(Batch.state == BatchState.QUEUED).order_by(Batch.id))
        )


@pytest.mark.usefixtures("model")
def test_every_image_of_a_finished_cohort_is_predicted_once(database: Database) -> None:
    for batch_id in cut(database, submit(database, 100)):
        finish(database, held(database, batch_id))
    assert states(database) == {ImageState.DONE: 100}
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(Prediction)) == 100
        assert progress(session)[0].finished


@pytest.mark.usefixtures("model")
def test_a_small_cohort_is_spread_over_batches_and_a_large_one_gets_full_ones(database: Database) -> None:
    small, large = submit(database, 100, name="small"), submit(database, 900, name="large")
    with database.read() as session:
        cut(database, small)
        cut(database, large, batch_images=50, in_flight=3)
        sizes = session.execute(select(Batch.cohort_id, Batch.size).order_by(Batch.id)).all()
    assert [size for cohort, size in sizes if cohort == small] == [16, 16, 16, 16, 16, 16, 4]
    assert [size for cohort, size in sizes if cohort == large] == [50, 50, 50]


@pytest.mark.usefixtures("model")
def test_no_more_than_the_allowed_batches_are_in_flight(database: Database) -> None:
    cohort_id = submit(database, 200)
    assert len(cut(database, cohort_id, in_flight=3)) == 3
    assert cut(database, cohort_id, in_flight=3) == []
    finish(database, held(database, queued_batches(database)[0]))
    assert len(cut(database, cohort_id, in_flight=3)) == 1


@pytest.mark.usefixtures("model")
def test_two_dispatchers_at_once_cut_no_image_twice(database: Database) -> None:
    cohort_id = submit(database, 300)
    together = threading.Barrier(4)

    def dispatcher() -> None:
        together.wait()
        cut(database, cohort_id)

    threads = [threading.Thread(target=dispatcher) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as session:
        assert session.scalar(select(func.sum(Batch.size))) == 300
    assert states(database) == {ImageState.QUEUED: 300}


@pytest.mark.usefixtures("model")
def test_only_one_of_many_claims_gets_the_batch(database: Database) -> None:
    (batch_id,) = cut(database, submit(database, 16))
    together = threading.Barrier(6)
    claims: list[Claim | None] = []

    def worker() -> None:
        together.wait()
        claims.append(take(database, batch_id))

    threads = [threading.Thread(target=worker) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([claimed for claimed in claims if claimed is not None]) == 1


@pytest.mark.usefixtures("model")
def test_a_message_for_a_finished_batch_does_nothing(database: Database) -> None:
    (batch_id,) = cut(database, submit(database, 16))
    finish(database, held(database, batch_id))
    assert take(database, batch_id) is None
    assert take(database, 10_000) is None
    assert states(database) == {ImageState.DONE: 16}


@pytest.mark.usefixtures("model")
def test_the_late_result_of_a_zombie_is_refused(database: Database) -> None:
    (batch_id,) = cut(database, submit(database, 16))
    zombie = lose(database, batch_id)
    with pytest.raises(LeaseLost):
        finish(database, zombie)
    successor = held(database, batch_id)
    with pytest.raises(LeaseLost):
        finish(database, zombie)
    with pytest.raises(LeaseLost), database.write() as session:
        renew(session, zombie.lease)
    finish(database, successor, bad=1)
    assert states(database) == {ImageState.DONE: 15, ImageState.FAILED: 1}


@pytest.mark.usefixtures("model")
def test_a_refused_result_leaves_no_trace(database: Database) -> None:
    (batch_id,) = cut(database, submit(database, 16))
    zombie = lose(database, batch_id)
    with pytest.raises(LeaseLost):
        finish(database, zombie)
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(Prediction)) == 0
    assert states(database) == {ImageState.QUEUED: 16}


@pytest.mark.usefixtures("model")
def test_a_renewed_lease_does_not_expire(database: Database) -> None:
    (batch_id,) = cut(database, submit(database, 16))
    claimed = held(database, batch_id, lease_seconds=-1)
    with database.write() as session:
        renew(session, replace(claimed.lease, seconds=60))
    with database.write() as session:
        assert expire_batches(session) == 0
    finish(database, claimed)


@pytest.mark.usefixtures("model")
def test_a_poison_image_fails_alone_and_its_neighbours_are_predicted(database: Database) -> None:
    cohort_id = submit(database, 100)
    with database.read() as session:
        poison = session.scalars(select(Image.id).order_by(Image.id).offset(41)).first()
    deaths = 0
    while batches := cut(database, cohort_id) or queued_batches(database):
        for batch_id in batches:
            claimed = held(database, batch_id, lease_seconds=-1)
            if poison in [item.image_id for item in claimed.images]:
                deaths += 1
                with database.write() as session:
                    assert expire_batches(session) == 1
            else:
                finish(database, claimed)
    with database.read() as session:
        failed = session.execute(
            select(Image.id, Image.problem).where(Image.state == ImageState.FAILED)
        ).all()
        assert [tuple(row) for row in failed] == [(poison, "worker-lost")]
        assert progress(session)[0].done == 99
    # Batches of 16, 2 and 1 images: each is lost as often as is allowed before it is split.
    assert deaths == 3 * ATTEMPTS


@pytest.mark.usefixtures("model")
def test_a_requeued_batch_can_be_claimed_and_is_not_counted_as_lost(database: Database) -> None:
    (batch_id,) = cut(database, submit(database, 16))
    for _ in range(ATTEMPTS + 1):
        claimed = held(database, batch_id)
        with database.write() as session:
            requeue(session, claimed.lease)
    lose(database, batch_id)
    assert queued_batches(database) == [batch_id]


@pytest.mark.usefixtures("model")
def test_a_batch_is_notified_once_and_again_if_it_is_not_claimed(database: Database) -> None:
    batch_ids = cut(database, submit(database, 32))
    with database.write() as session:
        assert rows_to_notify(session, Batch, again_seconds=60) == batch_ids
        mark_notified(session, Batch, batch_ids)
    with database.write() as session:
        assert rows_to_notify(session, Batch, again_seconds=60) == []
        assert rows_to_notify(session, Batch, again_seconds=-1) == batch_ids
        forget_notifications(session)
    held(database, batch_ids[0])
    with database.read() as session:
        assert rows_to_notify(session, Batch, again_seconds=60) == batch_ids[1:]


@pytest.mark.usefixtures("model")
def test_only_cohorts_of_the_highest_priority_are_dispatched(database: Database) -> None:
    low = submit(database, 40, name="low")
    high = submit(database, 40, name="high", priority=5)
    also_high = submit(database, 40, name="also high", priority=5)
    with database.read() as session:
        assert cohorts_to_dispatch(session) == [high, also_high]
    for cohort_id in (high, also_high):
        cut(database, cohort_id)
    with database.read() as session:
        assert cohorts_to_dispatch(session) == [low]


@pytest.mark.usefixtures("model")
def test_a_cohort_that_waits_for_its_model_is_tried_again_and_delays_no_other(database: Database) -> None:
    high = submit(database, 40, name="high", priority=5)
    low = submit(database, 40, name="low")
    (batch_id,) = cut(database, high, in_flight=1)
    claimed = held(database, batch_id)
    with database.write() as session:
        requeue(session, claimed.lease, backoff=WAIT)
    with database.read() as session:
        assert cohorts_to_dispatch(session) == [high, low]
    finish(database, held(database, batch_id))
    with database.read() as session:
        assert cohorts_to_dispatch(session) == [high]


@pytest.mark.usefixtures("model")
def test_if_every_cohort_waits_all_are_tried_again(database: Database) -> None:
    cohort_ids = [submit(database, 40, name=str(priority), priority=priority) for priority in (5, 0)]
    for cohort_id in cohort_ids:
        (batch_id,) = cut(database, cohort_id, in_flight=1)
        claimed = held(database, batch_id)
        with database.write() as session:
            requeue(session, claimed.lease, backoff=WAIT)
    with database.read() as session:
        assert cohorts_to_dispatch(session) == cohort_ids


@pytest.mark.usefixtures("model")
def test_cancelling_skips_unclaimed_images_and_lets_claimed_batches_finish(database: Database) -> None:
    cohort_id = submit(database, 60)
    batch_ids = cut(database, cohort_id, in_flight=2)
    claimed = held(database, batch_ids[0])
    with database.write() as session:
        assert cancel(session, find_cohort(session, "trial")) == 44
    assert take(database, batch_ids[1]) is None
    assert cut(database, cohort_id) == []
    finish(database, claimed)
    with database.read() as session:
        now = progress(session)[0]
    assert (now.done, now.problems, now.finished) == (16, {"cancelled": 44}, True)


@pytest.mark.usefixtures("model")
def test_a_batch_lost_after_its_cohort_was_cancelled_is_not_requeued(database: Database) -> None:
    (batch_id,) = cut(database, submit(database, 16))
    held(database, batch_id, lease_seconds=-1)
    with database.write() as session:
        cancel(session, find_cohort(session, "trial"))
    with database.write() as session:
        assert expire_batches(session) == 1
    assert take(database, batch_id) is None
    with database.read() as session:
        assert progress(session)[0].finished


@pytest.mark.usefixtures("model")
def test_retry_repeats_only_failed_and_cancelled_images(database: Database) -> None:
    cohort_id = submit(database, 60)
    first = cut(database, cohort_id, in_flight=1)
    finish(database, held(database, first[0]), bad=2)
    with database.write() as session:
        cancel(session, find_cohort(session, "trial"))
        assert retry(session, find_cohort(session, "trial")) == 46
    for batch_id in cut(database, cohort_id):
        finish(database, held(database, batch_id))
    assert states(database) == {ImageState.DONE: 60}


def test_batches_keep_the_model_that_they_were_cut_with(database: Database, model: Model) -> None:
    cohort_id = submit(database, 40)
    batch_ids = cut(database, cohort_id, in_flight=1)
    with database.write() as session:
        row = session.get_one(Model, model.id)
        row.state = type(row.state).RETIRED
        session.add(
            Model(
                name="resnet18-000000000000",
                backbone="resnet18",
                weights_digest="0" * 64,
                threshold=0.5,
                card={},
                state="champion",
            )
        )
    later = cut(database, cohort_id, in_flight=2)
    assert held(database, batch_ids[0]).model_id == model.id
    assert held(database, later[0]).model_id != model.id


def test_nothing_is_cut_without_a_champion(database: Database) -> None:
    with pytest.raises(NoChampion):
        cut(database, submit(database, 5))
    assert states(database) == {ImageState.PENDING: 5}
