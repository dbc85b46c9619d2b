"""What a database does not do, as errors of ours.

A driver's own text holds the values of rows, which are patients': it goes no further than here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from db.errors import PneumoscreenError


class DatabaseFailed(PneumoscreenError):
    """The job table refused what it was asked. `doctor` may tell why; if it finds nothing, report this."""

    code = "database-failed"


class DatabaseUnreachable(DatabaseFailed):
    """The job table cannot be opened. Check PNEUMOSCREEN_HOME or PNEUMOSCREEN_DATABASE_URL, and `doctor`.

    Its server may also be down, or take no more connections: workers wait for it and go on by themselves.
    """

    code = "database-unreachable"


class DatabaseFull(DatabaseFailed):
    """The disk of the job table is full, or broken. Make room there, and give the command again.

    Workers wait and go on by themselves; nothing was written in part.
    """

    code = "database-full"


class DatabaseReadOnly(DatabaseFailed):
    """The job table may only be read. Let this user write to it, or name the primary server in its URL."""

    code = "database-read-only"


class DatabaseBusy(DatabaseFailed):
    """Others kept the job table busy for too long. Try again, or raise PNEUMOSCREEN_DATABASE_BUSY_SECONDS."""

    code = "database-busy"


#: What passes when somebody has mended it, or by itself: worth waiting for.
PASSING = (DatabaseUnreachable, DatabaseFull, DatabaseReadOnly, DatabaseBusy)

#: By the beginning of SQLite's error names.
_SQLITE = {
    "SQLITE_BUSY": DatabaseBusy,
    "SQLITE_LOCKED": DatabaseBusy,
    "SQLITE_FULL": DatabaseFull,
    "SQLITE_IOERR": DatabaseFull,
    "SQLITE_READONLY": DatabaseReadOnly,
    "SQLITE_CANTOPEN": DatabaseUnreachable,
}

#: By the beginning of a SQLSTATE (PostgreSQL's appendix A).
_POSTGRESQL = {
    "08": DatabaseUnreachable,  # connection exception
    "25006": DatabaseReadOnly,  # read-only transaction
    "40": DatabaseBusy,  # deadlock, serialization failure
    "53100": DatabaseFull,  # disk full
    "53": DatabaseUnreachable,  # too many connections, out of memory
    "55P03": DatabaseBusy,  # lock not available
    "57P": DatabaseUnreachable,  # shutting down, starting up, terminated
    "58": DatabaseFull,  # system error: its disk
}


@contextmanager
def our_errors() -> Iterator[None]:
    """Raise what the database or its driver raises as a DatabaseFailed."""
    try:
        yield
    except PoolTimeout:
        raise DatabaseUnreachable("no free connection") from None
    except DBAPIError as error:
        raise _ours(error) from None


def _ours(error: DBAPIError) -> DatabaseFailed:
    told = error.orig
    name = getattr(told, "sqlite_errorname", None)
    state = getattr(told, "sqlstate", None)
    known = _SQLITE if name else _POSTGRESQL
    for beginning, kind in known.items():
        if (name or state or "").startswith(beginning):
            return kind(name or state or "")
    if state is None and name is None and (error.connection_invalidated or _is_connection(told)):
        return DatabaseUnreachable(type(told).__name__)
    return DatabaseFailed(name or type(told).__name__)


def _is_connection(told: object) -> bool:
    """Whether a driver's error without a code is that of a connection: there was nobody to give one."""
    from psycopg import OperationalError

    return isinstance(told, OperationalError)
