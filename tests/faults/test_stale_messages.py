"""A worker that starts with a queue full of stale messages."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest
from sqlalchemy import select

from db.queries.progress import progress
from db.states import BatchState
from db.tables import Batch
from deploy.stack import Stack
from scheduler.ingest import open_source
from scheduler.submit import submit
from tests.faults.invariant import check
from tests.faults.system import System
from tests.faults.workers import own_worker
from tests.pictures import save_film
from tests.stack import stop_process
from tests.waiting import wait_for
from worker.broker.app import SCREEN

#: As many messages as two hours without a worker left behind in an earlier version.
STALE = 50_000


def fill(system: System, count: int) -> None:
    """Put copies of a batch's message into the queue, each with an id of its own."""
    broker = system.broker()
    original = broker.lindex(SCREEN, 0)
    assert isinstance(original, bytes)
    with broker.pipeline(transaction=False) as pipeline:
        for number in range(count):
            message = json.loads(original)
            message["properties"]["delivery_tag"] = f"stale-{number}"
            message["headers"]["id"] = f"stale-{number}"
            pipeline.lpush(SCREEN, json.dumps(message))
            if number % 5000 == 0:
                pipeline.execute()
        pipeline.execute()


def done(system: System, name: str) -> Callable[[], bool]:
    def finished() -> bool:
        with system.database.read() as session:
            return progress(session, [name])[0].finished

    return finished


@pytest.mark.long
def test_stale_messages_delay_neither_waiting_nor_urgent_batches(system: System) -> None:
    stop_process(Stack(), "worker")
    system.submit(64)
    wait_for(lambda: system.broker().llen(SCREEN) >= 4)
    fill(system, STALE)
    length = system.broker().llen(SCREEN)
    time.sleep(5)
    assert system.broker().llen(SCREEN) == length, "a full queue was notified again"
    with own_worker() as worker:
        wait_for(lambda: "ready." in worker.log(), 300)
        ready = time.monotonic()
        wait_for(done(system, "trial"), 120)
        print(f"64 images done {time.monotonic() - ready:.1f} s after the worker was ready")
        urgent = system.folder.with_name("urgent")
        urgent.mkdir()
        for number in range(16):
            save_film(urgent / f"{number}.png", number)
        before, start = system.broker().llen(SCREEN), time.monotonic()
        assert before > STALE / 2, "the queue was nearly empty before the urgent submit"
        submit(system.database, open_source(str(urgent)), name="urgent", priority=9)
        wait_for(done(system, "urgent"), 120)
        print(f"priority 9 done after {time.monotonic() - start:.1f} s, {before} messages before it")
        before, start = system.broker().llen(SCREEN), time.monotonic()
        time.sleep(10)
        left = system.broker().llen(SCREEN)
        print(f"{(before - left) / (time.monotonic() - start):.0f} stale messages a second")
    check(system.database, ended=True)
    with system.database.read() as session:
        assert set(session.scalars(select(Batch.state))) == {BatchState.DONE}
