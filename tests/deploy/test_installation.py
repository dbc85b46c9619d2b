"""The installation of docs/it.md, its commands run as processes; PostgreSQL, Valkey with TLS and ACL."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from pydantic import SecretStr
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, ResponseError
from redis.retry import Retry

from tests.commands import run
from tests.conftest import postgres_url
from tests.faults.proxy import free_port
from tests.installation import ADMINISTRATION, Valkey, make_secrets, point, settings
from tests.waiting import wait_for
from worker.broker.app import make_app
from worker.phantoms import write_phantoms
from worker.settings import BrokerSettings

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


def image_command(role: str) -> list[str]:
    """Return the command of a role's Dockerfile."""
    text = (DEPLOY / "docker" / f"{role}.Dockerfile").read_text()
    found = re.search(r"^CMD (\[.*\])$", text, re.MULTILINE)
    assert found is not None
    return list(json.loads(found[1]))


def service_command(name: str) -> list[str]:
    """Return the command of a service of compose.yaml."""
    service = COMPOSE["services"][name]
    dockerfile = Path(service["build"]["dockerfile"]).stem
    command = service.get("command") or image_command(dockerfile)
    return ["sh", "-c", f"exec {command}".replace("$$", "$")] if isinstance(command, str) else list(command)


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """Make the secrets twice, as an administrator does, and check that the second time changes nothing."""
    folder = make_secrets(tmp_path)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    make_secrets(tmp_path)
    assert before == {file.name: file.read_bytes() for file in folder.iterdir()}
    return folder


@pytest.fixture
def valkey(secrets: Path) -> Iterator[Valkey]:
    with Valkey(secrets) as server:
        yield server


@pytest.fixture
def installed(
    secrets: Path, valkey: Valkey, postgres: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """Set what compose.yaml sets, with the addresses of this machine."""
    url = point(secrets, valkey, postgres_url(postgres, "installed"))
    given = COMPOSE["services"]["worker"]["environment"]
    set_here = {
        **settings(secrets),
        "PNEUMOSCREEN_CONFIG": str(DEPLOY / "pneumoscreen.toml"),
        "PNEUMOSCREEN_METRICS_HOST": "127.0.0.1",
        "PNEUMOSCREEN_FLOWER_HOST": "127.0.0.1",
        "PNEUMOSCREEN_SOURCE_ROOTS": json.dumps([str(tmp_path / "x-rays")]),
    }
    assert set(given) == set(set_here)
    for name, value in set_here.items():
        monkeypatch.setenv(name, value)
    return {"broker": url}


@pytest.fixture
def start(home: Path, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Return a function that runs a service as a process with the secrets of its container."""
    home.mkdir(exist_ok=True)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    running: list[subprocess.Popen[bytes]] = []

    def run(name: str, *more: str, **environment: str) -> subprocess.Popen[bytes]:
        mounted = tmp_path / f"secrets-{name}"
        mounted.mkdir()
        for secret in COMPOSE["services"][name]["secrets"]:
            shutil.copy(Path(os.environ["PNEUMOSCREEN_SECRETS"], secret), mounted)
        environment |= {"PATH": path, "PNEUMOSCREEN_SECRETS": str(mounted)}
        command = service_command(name)
        if more:
            command = [part.replace("--port=5555", f"--port={more[0]}") for part in command]
            command = [more[0] if part == "9464" else part for part in command]
        with (tmp_path / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command, cwd=home, env=os.environ | environment, stdout=log, stderr=subprocess.STDOUT
            )
        running.append(process)
        return process

    yield run
    for process in running:
        process.kill()
        process.wait()


def get(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def test_the_services_of_compose_screen_a_cohort(
    installed: dict[str, str],
    start: Callable[..., subprocess.Popen[bytes]],
    secrets: Path,
    artefact: Path,
    tmp_path: Path,
) -> None:
    from db.engine import Database
    from db.models.registry import ensure_champion
    from db.upkeep.migrate import upgrade

    database = Database()
    upgrade(database)
    ensure_champion(database, artefact)
    database.close()
    metrics, flower = str(free_port()), str(free_port())
    worker = start("worker")
    for name in ("housekeeping", "beat", "training"):
        start(name)
    start("metrics", metrics)
    start("flower", flower)
    write_phantoms(tmp_path / "x-rays", 24)
    run("submit", str(tmp_path / "x-rays"), "--cohort", "trial")
    run("watch", "trial")
    (status,) = json.loads(run("status", "trial", "--json").stdout)
    assert (status["total"], status["done"]) == (24, 24)
    wait_for(lambda: 'pneumoscreen_workers{queue="screen"} 1.0' in get(f"http://127.0.0.1:{metrics}/metrics"))
    wait_for(lambda: get(f"http://127.0.0.1:{metrics}/readyz") == "ready\n")
    wait_for(lambda: get(f"http://127.0.0.1:{flower}/healthcheck") == "OK")
    for kind in ("screen", "training", "housekeeping"):
        run("alive", kind)
    worker.terminate()
    assert worker.wait(60) == 0, "the worker did not end cleanly after SIGTERM"
    run("alive", "screen", expect=2)


def test_flower_works_with_only_its_own_secrets_and_folder(
    installed: dict[str, str],
    start: Callable[..., subprocess.Popen[bytes]],
    secrets: Path,
    tmp_path: Path,
) -> None:
    port, folder = free_port(), tmp_path / "flowers"
    start("flower", str(port), PNEUMOSCREEN_HOME=str(folder))
    wait_for(lambda: get(f"http://127.0.0.1:{port}/healthcheck") == "OK")
    password = (secrets / "pneumoscreen_flower_password").read_text()
    login = base64.b64encode(f"pneumoscreen:{password}".encode()).decode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/queues/length", headers={"Authorization": f"Basic {login}"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert {queue["name"] for queue in json.load(answer)["active_queues"]} >= {"screen", "housekeeping"}
    assert [path.name for path in folder.iterdir()] == ["flower"], "Flower opened a job table"


def test_an_existing_secrets_folder_is_made_private(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir(mode=0o755)
    assert make_secrets(tmp_path).stat().st_mode & 0o777 == 0o700


def test_the_broker_refuses_clients_without_password_certificate_or_permission(
    installed: dict[str, str], valkey: Valkey, secrets: Path
) -> None:
    url, ca = installed["broker"], str(secrets / "ca.crt")
    ours = Redis.from_url(url, ssl_ca_certs=ca)
    assert ours.ping()
    for command in ADMINISTRATION:
        with pytest.raises(ResponseError, match=r"no permissions|not allowed"):
            ours.execute_command(command)
    there = {"port": valkey.port, "ssl": True, "ssl_ca_certs": ca, "retry": Retry(NoBackoff(), 0)}
    for password in ({}, {"password": "wrong"}, {"username": "pneumoscreen", "password": "wrong"},
                     {"username": "default", "password": ""}):  # fmt: skip
        for command in ("PING", "LLEN screen", "LPUSH screen x", "INFO", "EVAL 'return 1' 0", "PUBLISH x y"):
            with pytest.raises(AuthenticationError):
                Redis(**there, **password).execute_command(command)
    with pytest.raises(Exception, match=r"(?i)certificate"):
        Redis.from_url(url).ping()
    plain = url.replace("rediss://", "redis://")
    # Our own processes refuse a certificate of another CA or of another host.
    ours_too = BrokerSettings(broker_url=SecretStr(url), broker_ca_file=ca)
    with make_app(ours_too).connection_for_write() as connection:
        connection.connect()
    for wrong in (
        ours_too.model_copy(update={"broker_url": SecretStr(url.replace("@localhost", "@127.0.0.1"))}),
        ours_too.model_copy(update={"broker_ca_file": ""}),
    ):
        with (
            make_app(wrong).connection_for_write() as connection,
            pytest.raises(Exception, match=r"(?i)certif"),
        ):
            connection.connect()
    with pytest.raises(Exception, match=r"(?i)closed|reset|protocol|timed? ?out"):
        Redis.from_url(plain, socket_timeout=5).ping()
