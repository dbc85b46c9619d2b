"""The files that configure the embedded stack: secrets, ports, the broker and supervisord."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path

from db.atomic import write_whole
from db.settings import secrets_folder
from deploy.broker import USER, valkey_config
from deploy.flower.settings import FlowerSettings
from deploy.ports import choose
from deploy.programs import Ports, programs, supervisor_config
from deploy.settings import StackSettings


def configure(run: Path) -> None:
    """Write every file that the stack's processes read at their start; keep secrets that are set already.

    Raises PortBusy, before anything is written.
    """
    ports = Ports(**choose(run))
    settings = StackSettings.read()
    if settings.embedded_broker:
        _configure_broker(run, settings.embedded_broker_memory_mib)
    flower = FlowerSettings.read()
    if not flower.flower_password.get_secret_value():
        _write_secret("flower_password", secrets.token_urlsafe(12))
    if not flower.flower_cookie_secret.get_secret_value():
        _write_secret("flower_cookie_secret", secrets.token_urlsafe(48))
    _write(run / "flower.port", str(ports.flower))
    _write(run / "metrics.port", str(ports.metrics))
    _write(run / "supervisord.conf", supervisor_config(programs(settings, ports), settings))


def _configure_broker(run: Path, memory_mib: int) -> None:
    port, password = _free_port(), secrets.token_urlsafe(24)
    _write_secret("broker_url", f"redis://{USER}:{password}@127.0.0.1:{port}/0")
    _write(run / "valkey.conf", valkey_config(port, password, memory_mib))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _write_secret(name: str, value: str) -> None:
    _write(secrets_folder() / f"pneumoscreen_{name}", value)


def _write(path: Path, content: str) -> None:
    with write_whole(path) as file:
        file.write(content.encode())
