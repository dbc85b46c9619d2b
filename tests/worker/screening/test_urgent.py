"""A batch of higher priority goes before the rest of the batches that are being screened."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from db.engine import Database
from db.jobs.batches import cut_batches
from db.jobs.cohorts import mark_ready, open_cohort
from db.jobs.images import NewImage, add_images
from db.queries.progress import progress
from db.states import BatchState
from db.tables import Batch, Cohort
from tests.waiting import wait_for
from tests.worker.screening.batches import submit
from worker.runtime.protocol import Output, Precision
from worker.runtime.torch.runtime import TorchRuntime
from worker.screening import batch as module
from worker.screening.batch import Screener
from worker.screening.step import Device
from worker.screening.stopwatch import Stopwatch
from worker.settings import WorkerSettings

#: Images in a pass: the files are several passes.
SIZE = 2


@pytest.fixture(autouse=True)
def looks_before_each_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_POLL_SECONDS", 0.0)


@pytest.fixture
def screener(database: Database) -> Screener:
    return Screener(database, WorkerSettings(forward_images=SIZE))


def submit_urgent(database: Database, file: Path, name: str = "urgent", priority: int = 9) -> int:
    with database.write() as session:
        cohort = open_cohort(session, name, source="/data", priority=priority)
        add_images(session, cohort.id, [NewImage(uri=str(file))])
        mark_ready(session, cohort.id)
        (batch_id,) = cut_batches(session, cohort.id, batch_images=256, in_flight=9)
        return batch_id


def during_the_first_pass(monkeypatch: pytest.MonkeyPatch, do: Callable[[], object]) -> None:
    """Call `do` while the first pass computes."""
    real, waits = TorchRuntime.forward, [do]

    def computed(self: TorchRuntime, pictures: np.ndarray, *precision: Precision) -> Output:
        while waits:
            waits.pop()()
        return real(self, pictures, *precision)

    monkeypatch.setattr(TorchRuntime, "forward", computed)


def ended(database: Database) -> list[str]:
    """Return the cohorts of finished batches, in the order in which they finished."""
    query = select(Cohort.name).join(Batch, Batch.cohort_id == Cohort.id).order_by(Batch.finished_at)
    with database.read() as session:
        return list(session.scalars(query.where(Batch.state == BatchState.DONE)))


@pytest.mark.usefixtures("model")
def test_a_batch_of_higher_priority_is_done_before_the_rest_of_a_running_one(
    database: Database, files: list[Path], screener: Screener, monkeypatch: pytest.MonkeyPatch
) -> None:
    during_the_first_pass(monkeypatch, lambda: submit_urgent(database, files[0]))
    screener.screen(submit(database, files))
    assert ended(database) == ["urgent", "trial"]
    with database.read() as session:
        assert [(one.name, one.done) for one in progress(session)] == [("trial", len(files)), ("urgent", 1)]


@pytest.mark.usefixtures("model")
def test_a_batch_of_the_same_priority_waits_for_the_running_one(
    database: Database, files: list[Path], screener: Screener, monkeypatch: pytest.MonkeyPatch
) -> None:
    during_the_first_pass(monkeypatch, lambda: submit_urgent(database, files[0], "same", priority=0))
    screener.screen(submit(database, files))
    assert ended(database) == ["trial"]


@pytest.mark.usefixtures("model")
def test_a_thread_that_waits_for_the_device_claims_a_more_urgent_batch(
    database: Database, files: list[Path], screener: Screener, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed, batches = threading.Event(), list[int]()
    real = Screener._work_on

    def work(self: Screener, what: module.Claim, *, urgent: bool = False) -> None:
        if what.batch_id in batches:
            assert urgent
            claimed.set()
        real(self, what, urgent=urgent)

    def hold_the_device() -> None:
        batches.append(submit_urgent(database, files[0]))
        assert claimed.wait(30), "nobody claimed it while the device was in use"

    monkeypatch.setattr(Screener, "_work_on", work)
    first, second = submit(database, files), submit(database, files, "second")
    during_the_first_pass(monkeypatch, hold_the_device)
    threads = [threading.Thread(target=screener.screen, args=(one,)) for one in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ended(database)[0] == "urgent"
    assert len(ended(database)) == 3


@pytest.mark.usefixtures("model")
def test_a_more_urgent_batch_that_cannot_be_screened_costs_the_running_one_nothing(
    database: Database, files: list[Path], screener: Screener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def submit_unavailable() -> None:
        with database.write() as session:
            cohort = open_cohort(session, "urgent", source=str(tmp_path / "gone"), priority=9)
            add_images(session, cohort.id, [NewImage(uri=str(tmp_path / "gone" / "film.png"))])
            mark_ready(session, cohort.id)
            cut_batches(session, cohort.id, batch_images=256, in_flight=9)

    during_the_first_pass(monkeypatch, submit_unavailable)
    screener.screen(submit(database, files))
    assert ended(database) == ["trial"]
    with database.read() as session:
        running, urgent = progress(session)
        assert (running.done, running.failed) == (len(files), 0)
        assert (urgent.ended, urgent.waits_for) == (0, "source-away")


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("gives_up", [False, True])
def test_a_worker_that_stops_claims_no_more_urgent_batch(
    gives_up: bool,
    database: Database,
    files: list[Path],
    screener: Screener,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    urgent = []

    def stop() -> None:
        urgent.append(submit_urgent(database, files[0]))
        (screener.give_up if gives_up else screener.stopping.set)()

    during_the_first_pass(monkeypatch, stop)
    screener.screen(submit(database, files))
    assert ended(database) == ([] if gives_up else ["trial"])
    with database.read() as session:
        batch = session.get_one(Batch, urgent[0])
        assert (batch.state, batch.attempt) == (BatchState.QUEUED, 0)


def test_an_urgent_turn_comes_before_those_that_wait_longer() -> None:
    device, order, waiting = Device(), list[str](), list[threading.Thread]()

    def take(name: str, urgent: bool) -> None:
        with device.turn(Stopwatch(), lambda: None, urgent):
            order.append(name)

    with device.turn(Stopwatch(), lambda: None, False):
        for name, urgent in (("first", False), ("second", False), ("urgent", True)):
            waiting.append(threading.Thread(target=take, args=(name, urgent)))
            waiting[-1].start()
        wait_for(lambda: device._urgent)
        time.sleep(0.1)
        assert order == []
    for thread in waiting:
        thread.join()
    assert order[0] == "urgent"
    assert len(order) == 3
