"""The embedded stack: broker, workers, beat and Flower on this machine, kept alive by supervisord."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault, ServerProxy

from db.errors import PneumoscreenError
from db.private import create_private
from db.settings import home, secrets_folder
from deploy.programs import Ports, programs, supervisor_config
from deploy.settings import StackSettings
from scheduler.flower.settings import FlowerSettings
from scheduler.metrics.settings import MetricsSettings

#: Seconds that the stack may take to come up: mostly torch and the model, from a cold disk.
_START_SECONDS = 180.0
_POLL_SECONDS = 0.1


class StackFailed(PneumoscreenError):
    """The embedded stack did not come up. `pneumoscreen doctor` checks what commonly goes wrong."""

    code = "stack-failed"


class StackNotRunning(PneumoscreenError):
    """The embedded stack is not running. Start it with `pneumoscreen up`."""

    code = "stack-not-running"


@dataclass(frozen=True, slots=True)
class Process:
    """One process of the stack, as supervisord sees it."""

    name: str
    #: `RUNNING`, `STARTING`, `BACKOFF`, `FATAL`, `STOPPED` and the like.
    state: str
    pid: int


class Stack:
    """The embedded stack of one data directory."""

    def __init__(self) -> None:
        self.home = home()
        self.run = self.home / "run"
        self.logs = self.home / "logs"
        # A unix socket's path holds about 100 bytes, and a data directory may lie deep.
        key = hashlib.sha256(os.fsencode(self.home)).hexdigest()[:16]
        self.socket_folder = Path(tempfile.gettempdir()) / f"pneumoscreen-{os.getuid()}-{key}"
        self.socket = self.socket_folder / "supervisor.sock"

    # -- looking

    def processes(self) -> list[Process]:
        """Return the stack's processes. Raises StackNotRunning."""
        infos: list[dict[str, Any]] = self._call(lambda server: server.supervisor.getAllProcessInfo())
        return [Process(info["name"], info["statename"], int(info["pid"])) for info in infos]

    def is_running(self) -> bool:
        """Tell whether the stack is up, and not on its way down."""
        try:
            self._call(lambda server: server.supervisor.getState())
        except StackNotRunning:
            return False
        return True

    def is_gone(self) -> bool:
        """Tell whether supervisord has ended, and with it every process that it held."""
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) != 0

    @property
    def flower_address(self) -> str:
        """Flower's address on this machine."""
        return f"http://127.0.0.1:{(self.run / 'flower.port').read_text(encoding='ascii')}"

    @property
    def metrics_address(self) -> str:
        """The metrics server's address on this machine."""
        return f"http://127.0.0.1:{(self.run / 'metrics.port').read_text(encoding='ascii')}/metrics"

    @property
    def flower_login(self) -> tuple[str, str]:
        """User and password of Flower."""
        settings = FlowerSettings.read()
        return settings.flower_user, settings.flower_password.get_secret_value()

    # -- starting and stopping

    def start(self) -> None:
        """Write the configuration and start every process; returns once all of them have been started.

        Raises StackFailed.
        """
        if self.is_running():
            return
        self._wait(self.is_gone, "an earlier one is still stopping")
        for folder in (self.home, self.run, self.logs, self.home / "broker", secrets_folder()):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._make_socket_folder()
        settings = StackSettings.read()
        if settings.embedded_broker:
            self._configure_broker()
        flower = FlowerSettings.read()
        if not flower.flower_password.get_secret_value():
            _write_secret("flower_password", secrets.token_urlsafe(12))
        if not flower.flower_cookie_secret.get_secret_value():
            _write_secret("flower_cookie_secret", secrets.token_urlsafe(48))
        ports = Ports(
            flower=flower.flower_port or _free_port(),
            metrics=MetricsSettings.read().metrics_port or _free_port(),
        )
        _write(self.run / "flower.port", str(ports.flower))
        _write(self.run / "metrics.port", str(ports.metrics))
        _write(self.run / "supervisord.conf", self._supervisor_config(settings, ports))
        self._spawn()

    def _configure_broker(self) -> None:
        port, password = _free_port(), secrets.token_urlsafe(24)
        _write_secret("broker_url", f"redis://:{password}@127.0.0.1:{port}/0")
        _write(self.run / "valkey.conf", _valkey_config(port, password, self.home / "broker"))

    def _make_socket_folder(self) -> None:
        self.socket_folder.mkdir(mode=0o700, exist_ok=True)
        status = self.socket_folder.lstat()
        if status.st_uid != os.getuid() or status.st_mode & 0o077 or self.socket_folder.is_symlink():
            # Somebody else made a folder of that name: they could pose as supervisord.
            raise StackFailed("the folder for the control socket belongs to somebody else")

    def _supervisor_config(self, settings: StackSettings, ports: Ports) -> str:
        what = programs(self.run, settings, ports)
        return supervisor_config(what, self.run, self.logs, self.socket, settings)

    def _spawn(self) -> None:
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(self.run / "supervisord.conf")]
        done = subprocess.run(  # noqa: S603  (our own interpreter and configuration)
            command, cwd=self.home, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
        if done.returncode:
            raise StackFailed("supervisord did not start")
        self._wait(self.is_running, "supervisord does not answer")

    def wait_ready(self, ready: Callable[[], bool]) -> None:
        """Wait until `ready` says so, at most three minutes. Raises StackFailed when a process gives up."""

        def checked() -> bool:
            self.check()
            return ready()

        self._wait(checked, "the workers do not answer")

    def check(self) -> None:
        """Raise StackNotRunning or, where a process has been given up, StackFailed."""
        fatal = [process.name for process in self.processes() if process.state == "FATAL"]
        if fatal:
            raise StackFailed(f"{', '.join(fatal)}; see the logs folder of the data directory")

    def stop(self) -> bool:
        """Stop every process, each after it has finished what it holds; return whether there was any.

        Raises StackFailed where one does not stop.
        """
        if self.is_gone():
            return False
        with suppress(StackNotRunning):  # on its way down already
            self._call(lambda server: server.supervisor.shutdown())
        self._wait(
            self.is_gone, "a process does not stop", StackSettings.read().stop_seconds + _START_SECONDS
        )
        shutil.rmtree(self.socket_folder, ignore_errors=True)
        return True

    def stop_process(self, name: str) -> None:
        """Stop one process and leave it stopped. Raises StackNotRunning."""
        self._call(lambda server: server.supervisor.stopProcess(name))

    # -- talking to supervisord

    def _call(self, what: Callable[[ServerProxy], Any]) -> Any:
        if not self.socket.exists():
            raise StackNotRunning
        from supervisor.xmlrpc import SupervisorTransport

        server = ServerProxy(
            "http://127.0.0.1", transport=SupervisorTransport(None, None, f"unix://{self.socket}")
        )
        try:
            return what(server)
        except (OSError, Fault):
            raise StackNotRunning from None

    @staticmethod
    def _wait(condition: Callable[[], bool], otherwise: str, seconds: float = _START_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise StackFailed(otherwise)
            time.sleep(_POLL_SECONDS)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _write_secret(name: str, value: str) -> None:
    _write(secrets_folder() / f"pneumoscreen_{name}", value)


def _write(path: Path, content: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    with create_private(partial) as file:
        file.write(content.encode())
    partial.replace(path)


def _valkey_config(port: int, password: str, folder: Path) -> str:
    """Return Valkey's configuration: loopback, a password, and nothing kept on disk.

    The job table is the truth; a broker that forgets everything costs nothing but a second ring.
    """
    return "\n".join(
        (
            "bind 127.0.0.1",
            f"port {port}",
            "protected-mode yes",
            f"requirepass {password}",
            'save ""',
            "appendonly no",
            # Refusing a message is noticed; evicting one is not.
            "maxmemory-policy noeviction",
            f'dir "{folder}"',
            "",
        )
    )
