"""Housekeeping's ticks: one at a time, one log line without a job table, not held up by long walks."""

from __future__ import annotations

import logging
import threading

import pytest

from db.engine import Database
from deploy.programs import Ports, programs
from deploy.settings import StackSettings
from scheduler import tasks
from tests.waiting import wait_for
from worker.broker.app import app


def test_ticks_that_arrive_during_a_tick_cause_one_more_run() -> None:
    go_on, runs = threading.Event(), []

    def work() -> None:
        runs.append(threading.get_ident())
        go_on.wait(10)

    tick = tasks._tick("housekeeping.of-a-test")(work)
    assert not tick.send_events, "Flower's list of tasks would hold little else"
    first = threading.Thread(target=tick)
    try:
        first.start()
        wait_for(lambda: runs)
        for _ in range(5):
            tick()
        assert len(runs) == 1
        go_on.set()
        first.join()
        assert len(runs) == 2
        tick()
        assert len(runs) == 3
    finally:
        app.tasks.pop("housekeeping.of-a-test")


def test_a_tick_without_the_job_table_logs_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PNEUMOSCREEN_DATABASE_URL", "postgresql://root@127.0.0.1:1/x")
    monkeypatch.setattr(tasks, "_database", Database)
    caplog.set_level(logging.INFO)
    tasks.dispatch_batches()
    assert [record.getMessage() for record in caplog.records] == [
        "housekeeping.dispatch: database-unreachable; the next tick tries again"
    ]
    assert caplog.records[0].exc_info is None


@pytest.mark.usefixtures("home")
def test_walks_leave_threads_for_everything_else(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    taken = 0
    while tasks._walks.acquire(blocking=False):
        taken += 1
    try:
        tasks.ingest_night(1)
    finally:
        tasks._walks.release(taken)
    assert "nightly run 1 is notified again later" in caplog.text
    (keeper,) = (
        one for one in programs(StackSettings(), Ports(flower=1, metrics=2)) if one.name == "housekeeping"
    )
    threads = next(int(word.partition("=")[2]) for word in keeper.command if "concurrency" in word)
    assert taken < threads
