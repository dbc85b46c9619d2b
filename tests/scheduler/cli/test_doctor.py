"""What `doctor` says about settings and ports."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from db.settings import RoomSettings
from deploy.stack import Stack
from scheduler.cli.system.configuration import ROOMS, check_settings
from scheduler.cli.system.doctor import examine
from scheduler.cli.system.finding import Finding
from tests.commands import run

ROOT = Path(__file__).parent.parent.parent.parent
NAMES = sorted(name for room in ROOMS for name in room.model_fields)


def default(room: type[RoomSettings], name: str) -> Any:
    """Return a value that TOML and JSON write alike, but for tables."""
    value = room.model_fields[name].get_default(call_default_factory=True)
    return value.get_secret_value() if isinstance(value, SecretStr) else value


EVERY = {name: default(room, name) for room in ROOMS for name in room.model_fields}


def bad() -> list[Finding]:
    return [finding for finding in check_settings() if finding.verdict != "good"]


def test_doctor_knows_every_room_of_settings() -> None:
    written = {
        name
        for room in ("db", "worker", "training", "scheduler", "deploy")
        for file in (ROOT / room).rglob("*.py")
        for name in re.findall(r"^class (\w+)\(RoomSettings\)", file.read_text(), re.MULTILINE)
    }
    assert {room.__name__ for room in ROOMS} == written
    assert len(NAMES) > 50


def test_doctor_accepts_every_setting_in_the_file_in_the_environment_and_as_a_secret(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "pneumoscreen.toml").write_text(
        "".join(f"{name} = {json.dumps(value)}\n" for name, value in EVERY.items())
    )
    assert bad() == []
    for name, value in EVERY.items():
        text = value if isinstance(value, str) else json.dumps(value)
        monkeypatch.setenv(f"PNEUMOSCREEN_{name.upper()}", text)
    assert bad() == []
    (home / "secrets").mkdir()
    for name in EVERY:
        variable = f"PNEUMOSCREEN_{name.upper()}"
        (home / "secrets" / variable.lower()).write_text(os.environ[variable])
        monkeypatch.delenv(variable)
    (home / "secrets" / "ca.crt").write_text("of a broker")
    assert bad() == []


@pytest.mark.parametrize("name", NAMES)
def test_doctor_names_the_setting_that_is_nearest_to_a_misspelt_one(
    name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    middle = len(name) // 2
    wrong = name[: middle - 1] + name[middle] + name[middle - 1] + name[middle + 1 :]
    wrong = wrong if wrong != name else name + "s"
    (home / "pneumoscreen.toml").write_text(f'# settings\n"{wrong}" = 1\n')
    monkeypatch.setenv(f"PNEUMOSCREEN_{wrong.upper()}", "1")
    in_file, in_environment = bad()
    assert f"`{wrong}`" in in_file.mend
    assert "line 2" in in_file.mend
    assert f"write `{name}`" in in_file.mend
    assert f"write `PNEUMOSCREEN_{name.upper()}`" in in_environment.mend


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("batch_images = 3\nlease_seconds = \n", "line 2"),
        ("mail_to = [", "end of document"),
        ('lease_seconds = "soon"\n', "PNEUMOSCREEN_LEASE_SECONDS"),
        ('[[nightly]]\nname = "w"\nsource = "/x"\ncron = "61 * * * *"\n', "PNEUMOSCREEN_NIGHTLY (0 cron)"),
    ],
)
def test_doctor_names_the_place_of_an_error_in_the_file_once(home: Path, text: str, where: str) -> None:
    (home / "pneumoscreen.toml").write_text(text)
    (finding,) = bad()
    assert where in finding.mend
    assert [one for one in examine_quickly() if one.verdict == "bad"] == [finding]


def examine_quickly() -> list[Finding]:
    """Run every check but the one that imports torch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scheduler.cli.system.doctor.find_spec", lambda _: None)
        return examine()


def test_a_list_that_is_not_json_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PNEUMOSCREEN_MAIL_TO", "me@example.org")
    (finding,) = bad()
    assert "PNEUMOSCREEN_MAIL_TO" in finding.mend
    assert "JSON" in finding.mend
    assert "example.org" not in finding.mend


@pytest.fixture
def busy() -> Iterator[int]:
    """Give a port that this process holds."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("setting", ["FLOWER_PORT", "METRICS_PORT"])
def test_doctor_and_up_name_a_busy_port_with_its_setting(
    setting: str, busy: int, job_table: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"PNEUMOSCREEN_{setting}", str(busy))
    (finding,) = [one for one in examine_quickly() if one.check == "ports"]
    assert finding.verdict == "bad"
    assert str(busy) in finding.found
    assert re.search(f"PNEUMOSCREEN_{setting} to a free port, such as \\d+", finding.mend)
    up = run("up", expect=2)
    assert "error [port-busy]" in up.stderr
    assert f"PNEUMOSCREEN_{setting}, port {busy}, is held by" in up.stderr
    assert "http://" not in up.stdout + up.stderr
    assert Stack().is_gone()
