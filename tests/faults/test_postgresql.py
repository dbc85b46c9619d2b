"""Faults of PostgreSQL: it stops, closes sessions, has no free connections, is slow or silent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import func, select

from db.states import TERMINAL, BatchState
from db.tables import Batch
from tests.faults.invariant import check
from tests.faults.postgres import Postgres, own_postgres, socket_of, through
from tests.faults.proxy import Proxy
from tests.faults.system import TIMES, System, running_system
from tests.waiting import wait_for

#: Shorter than every outage here: no batch waits for its old lease.
LEASE = 4

Start = Callable[..., System]


@pytest.fixture
def server() -> Iterator[Postgres]:
    with own_postgres() as running:
        yield running


@pytest.fixture
def start(
    server: Postgres, artefact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Start]:
    """Give a function that starts the stack on the server, through a proxy if one is given."""
    with ExitStack() as stack:

        def make(proxy: Proxy | None = None, **settings: object) -> System:
            return stack.enter_context(
                running_system(
                    server.url,
                    artefact,
                    tmp_path / "x-rays",
                    monkeypatch,
                    through=None if proxy is None else through(proxy, server.url),
                    **{"LEASE_SECONDS": LEASE} | settings,
                )
            )

        yield make


def done(system: System) -> int:
    return system.count(*TERMINAL)


def goes_on(system: System, after: str) -> None:
    """Wait for a batch to end, and print how long it took."""
    back, before = time.monotonic(), done(system)
    wait_for(lambda: done(system) > before)
    print(f"first batch {time.monotonic() - back:.1f} s after {after}")


def most_attempts(system: System) -> int:
    with system.database.read() as session:
        return session.scalars(select(func.max(Batch.attempt))).one()


def split(system: System) -> int:
    with system.database.read() as session:
        return len(session.scalars(select(Batch.id).where(Batch.state == BatchState.SPLIT)).all())


def no_driver_text(system: System) -> None:
    """Assert that logs hold no text of a driver, which may hold rows, and no traceback."""
    for name in ("worker", "housekeeping"):
        log = system.log(name)
        assert "Traceback" not in log
        assert "psycopg" not in log


@pytest.mark.long
def test_no_lease_is_lost_if_the_server_stops_for_longer_than_a_lease(server: Postgres, start: Start) -> None:
    system = start()
    system.submit()
    wait_for(system.held)
    server.stop("immediate")
    time.sleep(2 * LEASE)
    server.start()
    goes_on(system, "the server's return")
    system.end()
    assert split(system) == 0, "an outage was counted against the images"
    assert most_attempts(system) == 1
    no_driver_text(system)


@pytest.mark.long
def test_every_image_ends_once_if_sessions_are_terminated_repeatedly(server: Postgres, start: Start) -> None:
    system = start()
    system.submit()
    ended = 0
    for _ in range(TIMES):
        wait_for(lambda: system.held() or done(system) == system.images)
        ended += server.terminate()
        time.sleep(0.2)
        check(system.database)
    assert ended
    system.end()
    no_driver_text(system)


@pytest.mark.long
def test_every_image_ends_once_if_answers_to_commits_are_lost_repeatedly(
    server: Postgres, start: Start
) -> None:
    proxy = Proxy(socket_of(server.url))
    system = start(proxy)
    system.submit()
    for number in range(TIMES):
        proxy.cut_after(b"COMMIT")
        wait_for(lambda number=number: proxy.cut_offs > number or done(system) == system.images)  # type: ignore[misc]
        check(system.database)
    assert proxy.cut_offs
    system.end()
    no_driver_text(system)


@pytest.mark.long
def test_every_image_ends_once_if_other_clients_take_all_connections(server: Postgres, start: Start) -> None:
    server.psql("ALTER SYSTEM SET max_connections = 15")
    server.stop("fast")
    server.start()
    system = start()
    system.submit()
    wait_for(system.held)
    taken: list[psycopg.Connection[object]] = []
    until = time.monotonic() + 2 * LEASE
    refused = 0
    while time.monotonic() < until:
        try:
            taken.append(psycopg.connect(server.url))
        except psycopg.OperationalError:
            refused += 1
            # End our processes' sessions, so that they must ask for new ones.
            with suppress(Exception):
                taken[0].execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = 'trial' AND NOT pid = ANY(%s)",
                    [[one.info.backend_pid for one in taken]],
                )
            time.sleep(0.05)
    assert refused
    assert "database-unreachable" in system.log("worker") + system.log("housekeeping")
    for one in taken:
        one.close()
    system.end()
    assert split(system) == 0
    no_driver_text(system)


@pytest.mark.long
def test_no_lease_is_lost_with_two_seconds_of_latency(server: Postgres, start: Start) -> None:
    proxy = Proxy(socket_of(server.url))
    system = start(proxy, LEASE_SECONDS=120, SWEEP_SECONDS=5, DISPATCH_SECONDS=5, RING_AGAIN_SECONDS=120)
    system.submit(48)
    wait_for(system.held)
    proxy.latency = 2.0
    slow = time.monotonic()
    system.end()
    print(f"{time.monotonic() - slow:.0f} s for three batches")
    assert most_attempts(system) == 1


@pytest.mark.long
def test_work_resumes_after_a_proxy_of_the_server_was_silent_and_restarted(
    server: Postgres, start: Start
) -> None:
    proxy = Proxy(socket_of(server.url))
    system = start(proxy)
    system.submit()
    wait_for(system.held)
    proxy.fall_silent()
    time.sleep(2 * LEASE)
    proxy.speak()
    # A client that waits for an answer cannot detect the silence, because its TCP connection is intact.
    proxy.cut()
    goes_on(system, "its restart")
    system.end()
