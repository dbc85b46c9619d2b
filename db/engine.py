"""Connections to the job table and its transactions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import Session

from db.database_errors import our_errors
from db.errors import PneumoscreenError
from db.settings import DatabaseSettings


class DatabaseUrlInvalid(PneumoscreenError):
    """`PNEUMOSCREEN_DATABASE_URL` is no URL of SQLite or PostgreSQL. Percent-encode its password."""

    code = "database-url-invalid"


#: How soon a server that fell silent is noticed; without them a query would wait for hours on a connection
#: that a firewall has forgotten (libpq 34.1.2). Seconds, the last in milliseconds.
_NOTICE = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}

#: Connections that a process keeps open: the two batches of a worker, and whatever else there is, need more
#: than these for moments alone. PostgreSQL takes 100 of all processes together (`max_connections`).
_KEPT_CONNECTIONS = 2


class Database:
    """The job table, on SQLite or PostgreSQL."""

    def __init__(self, settings: DatabaseSettings | None = None) -> None:
        settings = settings or DatabaseSettings.read()
        self.models_folder = settings.models
        self.engine = _engine(settings)
        self._reading = _for_reading(self.engine)

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Open a transaction that commits when the block ends and rolls back when it raises.

        Raises DatabaseFailed; where the connection was lost while it committed, it may have committed.
        """
        with our_errors(), Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Open a transaction that sees one state of the database and waits for no writer.

        Raises DatabaseFailed.
        """
        with our_errors(), Session(self._reading, expire_on_commit=False) as session:
            yield session

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()


def _engine(settings: DatabaseSettings) -> Engine:
    try:
        # Not a URL with the file's path in it, which may hold what a URL gives a meaning.
        in_home = None if settings.url else URL.create("sqlite", database=str(settings.file))
        parsed = in_home or make_url(settings.url)
    except (ArgumentError, ValueError):  # the second quotes what stands after a password's colon
        raise DatabaseUrlInvalid from None
    if "@" in (parsed.host or ""):  # the rest of a password, which would be looked up as a host
        raise DatabaseUrlInvalid
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        return _sqlite_engine(parsed, settings.database_busy_seconds)
    if backend != "postgresql":
        raise DatabaseUrlInvalid(backend)
    # Psycopg 3, whatever the URL says of a driver: it is the one that is installed.
    return create_engine(
        parsed.set(drivername="postgresql+psycopg"),
        pool_pre_ping=True,
        pool_size=_KEPT_CONNECTIONS,
        hide_parameters=True,
        connect_args={name: value for name, value in _NOTICE.items() if name not in parsed.query},
    )


def _for_reading(engine: Engine) -> Engine:
    """Return an engine on the same connections, whose transactions see one state and cannot write."""
    if engine.dialect.name == "sqlite":
        return engine.execution_options(reads_only=True)  # a transaction of SQLite sees one state anyway
    # Otherwise each statement would see what was committed before it.
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def _sqlite_engine(url: Any, busy_seconds: float) -> Engine:
    if url.database and not url.database.startswith("file:"):
        # It holds patient data: nobody else may look in. SQLite gives its side files the same mode.
        file = Path(url.database)
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not file.exists():
            file.touch(mode=0o600)
    engine = create_engine(url, connect_args={"timeout": busy_seconds}, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        # The driver must not begin transactions by itself: _on_begin does.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        # A transaction that reads first and writes later cannot wait for another writer, it fails
        # at once with "database is locked". Taking the write lock at the start can wait.
        reads_only = connection.get_execution_options().get("reads_only", False)
        connection.exec_driver_sql("BEGIN" if reads_only else "BEGIN IMMEDIATE")

    return engine
