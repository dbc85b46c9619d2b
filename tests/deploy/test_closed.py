"""The embedded stack, as seen from the network and by a Flower user."""

from __future__ import annotations

import base64
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import flower.urls
import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError
from redis.retry import Retry

from db.engine import Database
from db.models.registry import ensure_champion
from db.settings import secrets_folder
from db.upkeep.migrate import upgrade
from deploy.stack import Stack
from scheduler.cli.system.running import start_stack, workers_answer
from tests.waiting import wait_for

#: The state of a listening socket, and the loopback addresses, as the kernel writes them in /proc/net.
_LISTENS = "0A"
_LOOPBACK = {"0100007F", "00000000000000000000000001000000"}


@dataclass(frozen=True)
class Running:
    """A running stack: its addresses, its processes and its secrets."""

    flower: str
    metrics: str
    broker: str
    login: tuple[str, str]
    pids: list[int]
    secrets: list[str]


#: All tests here share one stack, so they run in one process.
pytestmark = pytest.mark.xdist_group("closed")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, artefact: Path) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("closed") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PNEUMOSCREEN_HOME", str(home))
        database = Database()
        upgrade(database)
        ensure_champion(database, artefact)
        started = Stack()
        start_stack(database, started)
        started.wait_ready(
            lambda: started.serves("flower") and started.serves("metrics") and workers_answer()
        )
        broker = (secrets_folder() / "pneumoscreen_broker_url").read_text()
        running = Running(
            flower=Stack().flower_address,
            metrics=Stack().metrics_address.removesuffix("/metrics"),
            broker=broker,
            login=Stack().flower_login,
            pids=[process.pid for process in Stack().processes()],
            secrets=[
                broker.split(":")[2].split("@")[0],
                *((secrets_folder() / name).read_text() for name in
                  ("pneumoscreen_flower_password", "pneumoscreen_flower_cookie_secret")),
            ],
        )  # fmt: skip
    wait_for(lambda: shows_all(ask(running, "/workers")[1]))
    yield running
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PNEUMOSCREEN_HOME", str(home))
        Stack().stop()


def shows_all(page: str) -> bool:
    """Tell whether Flower's page of workers has all of them: it learns of each by its events."""
    return all(f"{name}@" in page for name in ("screen", "training", "housekeeping"))


def ask(stack: Running, path: str, *, login: bool = True, post: bool = False) -> tuple[int, str]:
    """Return the status and the page of a path of Flower."""
    headers = {}
    if login:
        headers["Authorization"] = "Basic " + base64.b64encode(":".join(stack.login).encode()).decode()
    request = urllib.request.Request(stack.flower + path, b"{}" if post else None, headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def handlers() -> list[tuple[str, type]]:
    """Return every path of Flower, with an example for each parameter, and its handler."""
    found = []
    for one in flower.urls.handlers:
        pattern, handler = (
            (one[0], one[1]) if isinstance(one, tuple) else (one.regex.pattern, one.handler_class)
        )
        path = re.sub(r"\(\.[+*]\)", "screen@host", pattern).rstrip("$").removesuffix("/?")
        if path not in (".*", "/static/screen@host"):
            found.append((path, handler))
    assert len(found) > 25
    return found


#: Paths that show no data: the health check, login and logout.
OPEN = ("/healthcheck", "/login", "/logout")


def changing() -> list[str]:
    """Return the paths that accept POST, except the table of tasks, which only reads."""
    return [path for path, handler in handlers() if "post" in vars(handler) and path != "/tasks/datatable"]


def test_every_process_listens_on_this_machine_only(stack: Running) -> None:
    listening = []
    for pid in stack.pids:
        inodes = {
            found[1]
            for link in Path(f"/proc/{pid}/fd").iterdir()
            if link.is_symlink() and (found := re.fullmatch(r"socket:\[(\d+)\]", str(link.readlink())))
        }
        for kind in ("tcp", "tcp6", "udp", "udp6", "raw"):
            for line in Path(f"/proc/{pid}/net/{kind}").read_text().splitlines()[1:]:
                address, state, inode = (line.split()[index] for index in (1, 3, 9))
                if inode in inodes and (state == _LISTENS or not kind.startswith("tcp")):
                    listening.append((kind, *address.split(":")))
    assert {address for _, address, _ in listening} <= _LOOPBACK
    ports = {int(port, 16) for _, _, port in listening}
    assert ports >= {
        int(one.rsplit(":", 1)[1].split("/")[0]) for one in (stack.flower, stack.metrics, stack.broker)
    }
    assert len(ports) == 3, "something else listens"


def test_the_embedded_broker_does_nothing_without_its_password(stack: Running) -> None:
    port = int(stack.broker.rsplit(":", 1)[1].split("/")[0])
    for password in (None, "", "wrong"):
        for command in ("PING", "LLEN screen", "FLUSHALL", "CONFIG GET *", "SHUTDOWN"):
            with pytest.raises(AuthenticationError):
                Redis(port=port, password=password, retry=Retry(NoBackoff(), 0)).execute_command(command)


def test_the_metrics_server_answers_only_its_own_paths(stack: Running) -> None:
    for path in (
        "/",
        "/metrics/",
        "/etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/debug",
        "/metricsx?name=CANARY",
    ):
        with pytest.raises(urllib.error.HTTPError, match="404") as refused:
            urllib.request.urlopen(stack.metrics + path, timeout=30)
        assert refused.value.read() == b"see /metrics, /healthz, /readyz\n"


@pytest.mark.parametrize("path", [path for path, _ in handlers() if path not in OPEN])
def test_flower_shows_nothing_without_a_login(stack: Running, path: str) -> None:
    for post in (False, True):
        status, page = ask(stack, path, login=False, post=post)
        assert status in (401, 403, 404, 405), (path, status)
        assert "screen.batch" not in page
        assert "@" not in page


@pytest.mark.parametrize("path", changing())
def test_flower_changes_nothing(stack: Running, path: str) -> None:
    assert ask(stack, path, post=True)[0] == 403
    if path.startswith("/api/worker") or "apply" in path:
        assert ask(stack, path)[0] == 405


def test_the_tests_know_all_kinds_of_paths_by_which_flower_changes_something() -> None:
    assert len(changing()) >= 13
    for what in (
        "shutdown",
        "revoke",
        "send-task",
        "apply",
        "pool",
        "queue",
        "timeout",
        "rate-limit",
        "abort",
    ):
        assert any(what in path for path in changing())


def test_flower_shows_no_password(stack: Running) -> None:
    _, page = ask(stack, "/workers")
    names = sorted(set(re.findall(r"(?:screen|training|housekeeping)@[\w.-]+", page)))
    assert len(names) == 3
    shown = [ask(stack, path) for path in (
        "/workers", "/tasks", "/broker", "/api/workers?refresh=1", "/api/tasks", "/api/queues/length",
        *(f"/worker/{name}" for name in names),
    )]  # fmt: skip
    assert {status for status, _ in shown} == {200}
    pages = "".join(page for _, page in shown)
    assert "broker_url" in pages, "the workers' settings are not shown at all"
    for secret in stack.secrets:
        assert secret not in pages


def test_flower_gives_no_metrics(stack: Running) -> None:
    assert ask(stack, "/metrics")[0] == 404
