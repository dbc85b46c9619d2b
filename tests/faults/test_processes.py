"""Faults of real processes, which are killed, stopped or sent wrong messages: every image ends once.

`FAULTS` sets the number of repetitions; `make faults` kills a worker a hundred times.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from redis.exceptions import RedisError
from sqlalchemy import func, select

from db.states import TERMINAL, BatchState
from db.tables import Batch
from deploy.stack import Stack
from scheduler.cli.system.running import start_stack
from scheduler.ingest import open_source
from scheduler.submit import submit
from tests.faults.invariant import check
from tests.faults.system import IMAGES, LEASE, SOONER_ON_POSTGRESQL, TIMES, System
from tests.waiting import wait_for
from worker.broker.app import SCREEN_BATCH, make_app


@SOONER_ON_POSTGRESQL
def test_every_image_ends_once_if_the_worker_is_killed_repeatedly(system: System) -> None:
    draw = random.Random(5)
    system.submit()
    for _ in range(TIMES):
        wait_for(lambda: system.held() or system.count(*TERMINAL) == IMAGES)
        time.sleep(draw.uniform(0, 0.3))
        killed = system.signal("worker", signal.SIGKILL)
        wait_for(lambda killed=killed: system.pid("worker") not in (0, killed))  # type: ignore[misc]
        check(system.database)
    system.end()


@pytest.mark.long
def test_a_zombie_writes_nothing(system: System, home: Path) -> None:
    system.submit()
    wait_for(system.held)
    worker = system.signal("worker", signal.SIGSTOP)
    held = system.held()
    time.sleep(3 * LEASE)
    with system.database.read() as session:
        states = session.scalars(select(Batch.state).where(Batch.id.in_(held))).all()
    assert BatchState.RUNNING not in states, "the lease of a stopped worker did not expire"
    os.kill(worker, signal.SIGCONT)
    system.end()
    assert "was lost; its results are dropped" in (home / "logs" / "worker.log").read_text()


@pytest.mark.long
def test_repeated_misordered_and_late_messages_cause_no_second_claim(system: System) -> None:
    system.submit()
    app = make_app()
    draw = random.Random(6)
    for _ in range(5):
        with system.database.read() as session:
            batches = list(session.scalars(select(Batch.id)))
        for number in draw.sample([*batches, 10**9], len(batches) + 1):
            app.send_task(SCREEN_BATCH, args=[number])
        time.sleep(0.5)
    system.end()
    with system.database.read() as session:
        assert session.scalars(select(func.max(Batch.attempt))).one() == 1


@pytest.mark.long
def test_every_image_ends_once_if_the_broker_is_flushed_frozen_and_killed(system: System) -> None:
    system.submit()
    wait_for(system.held)
    system.broker().flushall()
    for _ in range(TIMES):
        with suppress(RedisError):
            system.broker().client_kill_filter(_type="normal", skipme=True)
        time.sleep(0.3)
    frozen = system.signal("broker", signal.SIGSTOP)
    time.sleep(3)
    os.kill(frozen, signal.SIGCONT)
    system.signal("broker", signal.SIGKILL)
    system.end()


@pytest.mark.long
def test_a_second_submit_beat_and_housekeeper_do_no_harm(system: System, home: Path) -> None:
    celery = [sys.executable, "-m", "celery", "-A", "scheduler.tasks"]
    second = [
        subprocess.Popen([*celery, *more], cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for more in (
            ["beat", "--scheduler=celery.beat:Scheduler", "--pidfile="],
            ["worker", "-Q", "housekeeping,ingest", "-n", "housekeeping-2@%h", "--pool=threads"],
        )
    ]
    try:
        system.submit()
        wait_for(system.held)
        # A second submit of the same source, while its images are screened.
        submit(system.database, open_source(str(system.folder)), name="trial")
        system.end()
        assert system.count() == IMAGES
    finally:
        for process in second:
            process.kill()
            process.wait()


@pytest.mark.long
def test_every_image_ends_once_after_a_power_cut(system: System) -> None:
    system.submit()
    wait_for(system.held)
    pids = [process.pid for process in Stack().processes()]
    supervisor = int((Stack().run / "supervisord.pid").read_text())
    for pid in (supervisor, *pids):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_for(lambda: Stack().is_gone())
    check(system.database)
    start_stack(system.database, Stack())
    system.end()
