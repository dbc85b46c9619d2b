"""Connections to the job table, its transactions, and the INSERTs of its two databases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import Session

from db.database_errors import our_errors
from db.errors import PneumoscreenError
from db.settings import DatabaseSettings


class DatabaseUrlInvalid(PneumoscreenError):
    """`PNEUMOSCREEN_DATABASE_URL` is not a URL of SQLite or PostgreSQL. Percent-encode its password."""

    code = "database-url-invalid"


#: Timeouts that detect a server that does not answer (libpq, 34.1.2), in seconds, the last in milliseconds.
#: Without them a query could wait for hours on a connection that a firewall has dropped.
_TIMEOUTS = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}

#: Connections that a process keeps open. The two batches of a worker need more for moments only, and
#: PostgreSQL accepts 100 from all processes together (`max_connections`).
_KEPT_CONNECTIONS = 2


#: An INSERT that has ON CONFLICT.
Upsert = postgresql.Insert | sqlite.Insert


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

        Raises DatabaseFailed. If the connection is lost during the commit, it may have succeeded.
        """
        with our_errors(), Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Open a transaction that sees one snapshot of the database and waits for no writer.

        Raises DatabaseFailed.
        """
        with our_errors(), Session(self._reading, expire_on_commit=False) as session:
            yield session

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()


def on_postgresql(session: Session) -> bool:
    """Tell whether a session's database is PostgreSQL, and not SQLite."""
    return session.get_bind().dialect.name == "postgresql"


def upsert(session: Session, table: type[Any]) -> Upsert:
    """Return an INSERT that has ON CONFLICT: each database has one of its own."""
    return postgresql.insert(table) if on_postgresql(session) else sqlite.insert(table)


def insert_new(session: Session, table: type[Any]) -> Upsert:
    """Return an INSERT that skips rows that break a unique constraint."""
    return upsert(session, table).on_conflict_do_nothing()


def insert_many(
    session: Session, table: type[Any], columns: Sequence[str], rows: Sequence[tuple[Any, ...]]
) -> None:
    """Insert many rows, which break no constraint, as fast as the database can: on PostgreSQL by COPY.

    Columns that are not named get the database's default, and not that of the model.
    """
    name, names = table.__tablename__, ", ".join(columns)
    if on_postgresql(session):
        statement = f"{_COPY}{name} ({names}) FROM STDIN"
    else:
        statement = f"INSERT INTO {name} ({names}) VALUES ({', '.join('?' * len(columns))})"  # noqa: S608
    session.connection().exec_driver_sql(statement, list(rows))


#: The beginning of a COPY; nothing else of ours is executed with such a text.
_COPY = "COPY "


def _copy_rows(cursor: Any, statement: str, rows: Sequence[Any], _context: Any) -> bool:
    """Execute a COPY with its rows; return False for another statement, which SQLAlchemy then executes."""
    if not statement.startswith(_COPY):
        return False
    with cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row(row)
    return True


def _copy_row(cursor: Any, statement: str, row: Any, context: Any) -> bool:
    """Execute a COPY with its only row."""
    return _copy_rows(cursor, statement, [row], context)


def _engine(settings: DatabaseSettings) -> Engine:
    try:
        # The path is not written into a URL's text: it may hold characters that have a meaning there.
        in_home = None if settings.url else URL.create("sqlite", database=str(settings.file))
        parsed = in_home or make_url(settings.url)
    except (ArgumentError, ValueError):  # the ValueError would show a part of the password
        raise DatabaseUrlInvalid from None
    if "@" in (parsed.host or ""):  # a part of the password, which would go to the name server
        raise DatabaseUrlInvalid
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        return _sqlite_engine(parsed, settings.database_busy_seconds)
    if backend != "postgresql":
        raise DatabaseUrlInvalid(backend)
    # Psycopg 3 is the driver that is installed, whatever driver the URL names.
    engine = create_engine(
        parsed.set(drivername="postgresql+psycopg"),
        pool_pre_ping=True,
        pool_size=_KEPT_CONNECTIONS,
        hide_parameters=True,
        connect_args={name: value for name, value in _TIMEOUTS.items() if name not in parsed.query},
    )
    event.listen(engine, "do_executemany", _copy_rows)
    event.listen(engine, "do_execute", _copy_row)
    return engine


def _for_reading(engine: Engine) -> Engine:
    """Return an engine on the same connections, whose transactions see one snapshot and cannot write."""
    if engine.dialect.name == "sqlite":
        return engine.execution_options(reads_only=True)  # a transaction of SQLite sees one snapshot anyway
    # By default each statement would see what was committed before it.
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def _sqlite_engine(url: Any, busy_seconds: float) -> Engine:
    if url.database and not url.database.startswith("file:"):
        # It holds patient data: only its owner may read it. SQLite's side files get the same mode.
        file = Path(url.database)
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not file.exists():
            file.touch(mode=0o600)
    engine = create_engine(url, connect_args={"timeout": busy_seconds}, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        # The driver must not begin transactions itself: _on_begin does.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        # A transaction that reads first and writes later would fail at once with "database is locked" if
        # another one writes. A transaction that takes the write lock at its start waits for it.
        reads_only = connection.get_execution_options().get("reads_only", False)
        connection.exec_driver_sql("BEGIN" if reads_only else "BEGIN IMMEDIATE")

    return engine
