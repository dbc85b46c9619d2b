"""The ports of the embedded stack on the loopback interface, and the programs that hold them."""

from __future__ import annotations

import os
import socket
import zlib
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from db.errors import PneumoscreenError
from db.settings import ENV_PREFIX, home
from deploy.flower.settings import FlowerSettings
from deploy.processes import MARK
from scheduler.metrics.settings import MetricsSettings

#: Where a free port is looked for: below the ports that Linux gives to outgoing connections.
_FIRST, _LAST = 20_000, 29_999
_PROC = Path("/proc")
#: `TCP_LISTEN` in /proc/net/tcp.
_LISTENING = "0A"


class PortBusy(PneumoscreenError):
    """Another program listens on a port of the stack. Set the named setting to another port, or stop it."""

    code = "port-busy"


@dataclass(frozen=True, slots=True)
class Port:
    """A port that a process of the stack listens on."""

    #: Name of the process.
    process: str
    #: The setting that changes the port.
    setting: str
    #: The number in that setting; 0 means any free one.
    chosen: int
    #: Holds the number that was taken at the last start.
    file: Path

    @property
    def taken(self) -> int:
        """The number that was taken at the last start; 0 before the first one."""
        try:
            return int(self.file.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return 0


@dataclass(frozen=True, slots=True)
class Holder:
    """A program that listens on a port."""

    pid: int
    name: str
    #: Whether it belongs to this data directory.
    is_ours: bool

    def __str__(self) -> str:
        return f"{self.name}, process {self.pid}"


def ports(run: Path) -> tuple[Port, Port]:
    """Return the ports of Flower and of the metrics server."""
    return (
        Port("flower", "FLOWER_PORT", FlowerSettings.read().flower_port, run / "flower.port"),
        Port("metrics", "METRICS_PORT", MetricsSettings.read().metrics_port, run / "metrics.port"),
    )


def choose(run: Path) -> dict[str, int]:
    """Return the number of each process for a start: the chosen one, or that of the last start if it is free.

    At the first start it depends on the data directory, so that two directories rarely want the same one.
    Raises PortBusy if a chosen one is not free.
    """
    numbers: dict[str, int] = {}
    for port in ports(run):
        if port.chosen and (port.chosen in numbers.values() or not is_free(port.chosen)):
            raise PortBusy(busy(port, port.chosen))
        numbers[port.process] = port.chosen or free_number(port, but_not=numbers.values())
    return numbers


def free_number(port: Port, but_not: Collection[int] = ()) -> int:
    """Return a free number: that of the last start, or the first one from a place that depends on `home`."""
    span = _LAST - _FIRST + 1
    offset = zlib.crc32(f"{port.process} {home()}".encode())
    wanted = (port.taken, *(_FIRST + (offset + step) % span for step in range(span)))
    return next(number for number in wanted if number and number not in but_not and is_free(number))


def busy(port: Port, number: int) -> str:
    """Return which setting's port is busy, and which program holds it if that can be told."""
    held = holder(number)
    said = f"{ENV_PREFIX}{port.setting}, port {number}"
    return said if held is None else f"{said}, is held by {held}"


def is_free(number: int) -> bool:
    """Tell whether a server can listen on a port; connections that have just ended do not count."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", number))
        except OSError:
            return False
    return True


def holder(number: int) -> Holder | None:
    """Return the program that listens on a port.

    None if there is none, if it is another user's, or if this system has no /proc.
    """
    sockets = _listening(number)
    if not sockets:
        return None
    for folder in _PROC.iterdir():
        if folder.name.isdigit():
            with suppress(OSError):  # it has ended, or is another user's
                if any(_target(file) in sockets for file in (folder / "fd").iterdir()):
                    name = (folder / "comm").read_text(encoding="utf-8", errors="replace").strip()
                    return Holder(int(folder.name), name, _is_ours(folder))
    return None


def _listening(number: int) -> set[str]:
    """Return the sockets that listen on a port, as a process' `fd` folder names them."""
    found = set()
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in (_PROC / "net" / table).read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == number:
                    found.add(f"socket:[{fields[9]}]")
    return found


def _target(file: Path) -> str:
    with suppress(OSError):
        return os.readlink(file)  # noqa: PTH115  (no path: `socket:[123]`)
    return ""


def _is_ours(folder: Path) -> bool:
    """Tell whether a process is one of this data directory's stack, or of its services under systemd."""
    environment = (folder / "environ").read_bytes().split(b"\0")
    if f"{MARK}={home().resolve()}".encode() in environment:
        return True
    # A shell may hand the data directory on to any program.
    command = (folder / "cmdline").read_bytes()
    return f"{ENV_PREFIX}HOME={home()}".encode() in environment and any(
        program in command for program in (b"flowerconfig.py", b"pneumoscreen\0metrics")
    )


def is_served(port: Port) -> bool:
    """Tell whether the stack's own process listens on the number of the last start.

    If this system has no /proc, anybody who listens counts.
    """
    number = port.taken
    if not number or is_free(number):
        return False
    held = holder(number)
    return held.is_ours if held is not None else not _PROC.is_dir()
