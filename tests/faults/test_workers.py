"""Workers that die at the worst moments, get a message twice, or must stop: every image ends once."""

from __future__ import annotations

import signal

import pytest
from sqlalchemy import func, select

from db.queries.progress import progress
from db.states import BatchState, ImageState
from db.tables import Batch, Image, Prediction
from deploy.stack import Stack
from scheduler.metrics.broker import UNACKED, queue_of
from tests.faults.invariant import check
from tests.faults.system import QUICK, SOONER_ON_SQLITE, TIMES, System
from tests.faults.workers import own_worker
from tests.stack import stop_process
from tests.waiting import wait_for
from worker.broker.app import SCREEN


@pytest.fixture
def no_worker(system: System) -> System:
    """Stop the stack's own screening worker."""
    stop_process(Stack(), "worker")
    return system


@pytest.fixture
def tiny_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PNEUMOSCREEN_BATCH_IMAGES", "2")
    monkeypatch.setenv("PNEUMOSCREEN_BATCHES_IN_FLIGHT", "4")


def unacknowledged(system: System) -> int:
    """Return how many messages for screening workers are delivered and not acknowledged."""
    return sum(queue_of(message) == SCREEN for message in system.broker().hvals(UNACKED))


def attempts(system: System) -> int:
    """Return the largest number of claims of a batch."""
    with system.database.read() as session:
        return session.scalars(select(func.max(Batch.attempt))).one()


def predictions(system: System) -> int:
    with system.database.read() as session:
        return session.scalars(select(func.count()).select_from(Prediction)).one()


@SOONER_ON_SQLITE
def test_every_image_is_predicted_once_if_workers_are_killed_before_and_after_the_commit(
    no_worker: System,
) -> None:
    system = no_worker
    system.submit()
    for _ in range(max(TIMES // 10, 1)):
        before = predictions(system)
        with own_worker("before_commit") as worker:
            assert worker.dies()
        assert predictions(system) == before == system.count(ImageState.DONE), "half a batch was written"
        check(system.database)
        with own_worker("after_commit") as worker:
            assert worker.dies()
        written = select(func.count()).select_from(Image).join(Batch).where(Batch.state == BatchState.DONE)
        with system.database.read() as session:
            in_done_batches = session.scalars(written).one()
        assert before < predictions(system) == system.count(ImageState.DONE) == in_done_batches
        check(system.database)
    claims = select(Batch.id, Batch.attempt).where(Batch.state == BatchState.DONE)
    with system.database.read() as session:
        done = {row.id: row.attempt for row in session.execute(claims)}
    assert unacknowledged(system) > 0
    with own_worker("impatient-broker"):
        system.end()
        # Messages of finished batches that were not acknowledged are delivered again.
        wait_for(lambda: not unacknowledged(system))
    with system.database.read() as session:
        now = {row.id: row.attempt for row in session.execute(claims)}
    assert done.items() <= now.items(), "a batch that was done was screened again"


@SOONER_ON_SQLITE
def test_a_worker_whose_gpu_fails_ends_and_another_one_screens_its_images(no_worker: System) -> None:
    system = no_worker
    system.submit()
    with own_worker("lost-gpu") as worker:
        worker.ends()
    with system.database.read() as session:
        now = progress(session)[0]
    assert (now.running, now.failed, now.waits_for) == (0, 0, "device-unusable")
    with own_worker():
        system.end()
    assert system.count(ImageState.FAILED) == 0
    assert attempts(system) == 1


@pytest.mark.long
@pytest.mark.usefixtures("tiny_batches")
def test_a_message_that_is_lost_with_its_worker_is_sent_again(
    no_worker: System,
) -> None:
    system = no_worker
    system.submit()
    for _ in range(TIMES):
        with own_worker("after-pop") as worker:
            assert worker.dies()
        assert not system.held()
        assert not unacknowledged(system), "it died too late: the broker still has the message"
    assert attempts(system) == 0
    with own_worker():
        system.end()
    assert attempts(system) == 1


@pytest.mark.long
def test_a_message_delivered_again_while_its_batch_is_screened_changes_nothing(no_worker: System) -> None:
    system = no_worker
    system.submit()
    # The broker delivers a message again after two seconds; a batch takes at least three.
    with (
        own_worker("impatient-broker", slowly=3) as slow,
        own_worker("impatient-broker", slowly=0.1) as other,
    ):
        system.end()
        assert "cannot be claimed" in slow.log() + other.log(), "no message came twice"
    assert attempts(system) == 1


@pytest.fixture
def long_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use leases that do not expire during a test."""
    monkeypatch.setitem(QUICK, "LEASE_SECONDS", 600)


#: Signals after which a worker finishes its batches, and signals after which it gives them back at once.
FINISH = ((signal.SIGTERM,), (signal.SIGINT,))
GIVE_BACK = ((signal.SIGQUIT,), (signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGINT))


@pytest.mark.long
@pytest.mark.usefixtures("long_lease", "tiny_batches")
def test_a_worker_that_is_told_to_stop_leaves_no_lease(no_worker: System) -> None:
    system = no_worker
    system.submit()
    for _ in range(max(TIMES // 10, 1)):
        for told in FINISH + GIVE_BACK:
            with own_worker(slowly=3) as worker:
                wait_for(system.held)
                done = system.count(ImageState.DONE)
                worker.tell(*told)
                assert system.held() == [], f"{told} left a lease"
                assert (system.count(ImageState.DONE) > done) == (told in FINISH)
                assert "Traceback" not in worker.log()
            check(system.database)
    with own_worker():
        system.end()
    # Neither a finished batch nor one that was given back was claimed too often.
    assert attempts(system) == 1


@pytest.mark.long
def test_every_image_ends_once_if_housekeeping_and_beat_are_stopped_under_load(system: System) -> None:
    system.submit()
    wait_for(system.held)
    for _ in range(max(TIMES // 10, 1)):
        for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT, signal.SIGKILL):
            for name in ("housekeeping", "beat"):
                stopped = system.signal(name, number)
                wait_for(lambda name=name, old=stopped: system.pid(name) not in (0, old))  # type: ignore[misc]
                wait_for(lambda name=name: system.has_started(name))  # type: ignore[misc]
            check(system.database)
    system.end()
    assert attempts(system) == 1
