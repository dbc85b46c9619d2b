"""The checks of `doctor` on settings: misspelt names, values that cannot be used, and busy ports."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator
from difflib import get_close_matches

from db.settings import (
    ENV_PREFIX,
    DatabaseSettings,
    RoomSettings,
    SettingsInvalid,
    config_file,
    secrets_folder,
)
from deploy.flower.settings import FlowerSettings
from deploy.ports import Port, free_number, holder, is_free, ports
from deploy.processes import MARK
from deploy.settings import StackSettings
from deploy.stack import Stack
from scheduler.cli.system.finding import Finding
from scheduler.metrics.settings import MetricsSettings
from scheduler.nightly.delivery import SendSettings
from scheduler.nightly.schedule import NightlySettings
from scheduler.settings import SchedulerSettings
from training.settings import TrainingSettings
from worker.broker.logs import LogSettings
from worker.files.omissions import WalkSettings
from worker.files.roots import RootSettings
from worker.settings import BrokerSettings, WorkerSettings

#: Every room's settings.
ROOMS: tuple[type[RoomSettings], ...] = (
    BrokerSettings,
    DatabaseSettings,
    FlowerSettings,
    LogSettings,
    MetricsSettings,
    NightlySettings,
    RootSettings,
    SchedulerSettings,
    SendSettings,
    StackSettings,
    TrainingSettings,
    WalkSettings,
    WorkerSettings,
)
#: Names in the environment that say where to look. MARK is of the embedded stack's own processes.
_PLACES = {ENV_PREFIX + "HOME", ENV_PREFIX + "CONFIG", ENV_PREFIX + "SECRETS", MARK}


def check_settings() -> Iterator[Finding]:
    """Find names that no setting has, and values that cannot be used."""
    findings = [*_unusable(), *_unknown()]
    file = config_file()
    if findings:
        yield from findings
    elif file.is_file():
        yield Finding("settings", "good", str(file))
    elif os.environ.get(ENV_PREFIX + "CONFIG"):
        fix = f"Create {file}, or correct {ENV_PREFIX}CONFIG."
        yield Finding("settings", "note", f"there is no {file}", fix)
    else:
        yield Finding("settings", "good", "all defaults or environment")


def _unusable() -> Iterator[Finding]:
    said = set()
    for room in ROOMS:
        try:
            room.read()
        except SettingsInvalid as error:
            # A file that is not TOML is so for each room.
            if error.detail not in said:
                said.add(error.detail)
                yield Finding("settings", "bad", error.code, f"Correct {error.detail}.")


def _unknown() -> Iterator[Finding]:
    known = {name for room in ROOMS for name in room.model_fields}
    file = config_file()
    for number, name in _names_in_file():
        if name not in known:
            yield _misspelt(name, f"{file}, line {number}", known)
    variables = {ENV_PREFIX + name.upper() for name in known} | _PLACES
    # As pydantic reads it: in upper or lower case.
    given = (name for name in sorted(os.environ) if name.upper().startswith(ENV_PREFIX))
    for name in given:
        if name.upper() not in variables:
            yield _misspelt(name, "the environment", variables)
    files = {ENV_PREFIX.lower() + name for name in known}
    folder = secrets_folder()
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith(ENV_PREFIX.lower()) and path.name not in files:
            yield _misspelt(path.name, str(folder), files)


def _names_in_file() -> list[tuple[int, str]]:
    """Return the names in the file of settings, with the line of each; none if the file cannot be read."""
    try:
        text = config_file().read_text(encoding="utf-8")
        names = tomllib.loads(text)
    except (OSError, ValueError):  # `_unusable` reports it
        return []
    found = []
    for name in names:
        place = re.search(rf"""^[ \t]*\[*[ \t]*["']?{re.escape(name)}["']?[ \t]*[\].=]""", text, re.MULTILINE)
        found.append((text.count("\n", 0, place.start()) + 1 if place else 1, name))
    return found


def _misspelt(name: str, where: str, known: set[str]) -> Finding:
    near = get_close_matches(name.upper(), map(str.upper, known), n=1, cutoff=0.75)
    right = next((one for one in known if near and one.upper() == near[0]), None)
    fix = f"write `{right}`" if right else "remove it, or look its name up in docs/settings.md"
    return Finding("settings", "bad", f"no setting is called {name}", f"`{name}` in {where}: {fix}.")


def check_ports() -> Iterator[Finding]:
    """Find ports of the stack that another program holds."""
    stack = Stack()
    runs = stack.is_running()
    for port in ports(stack.run):
        number = port.taken if runs else port.chosen
        if number and not is_free(number):
            yield _held(port, number)
        elif runs:
            fix = f"If it does not come up within a minute, {stack.logs / port.process}.log says why."
            yield Finding("ports", "note", f"{port.process} does not listen yet", fix)


def _held(port: Port, number: int) -> Finding:
    held = holder(number)
    if held is not None and held.is_ours:
        return Finding("ports", "good", f"{port.process} listens on {number}")
    name = "another program" if held is None else str(held)
    free = free_number(port, but_not=(number,))
    fix = f"Stop that program, or set {ENV_PREFIX}{port.setting} to a free port, such as {free}."
    return Finding("ports", "bad", f"{name} holds port {number} of {port.process}", fix)
