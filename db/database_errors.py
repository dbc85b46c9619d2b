"""Errors of the database and its driver, as errors of ours.

A driver's own message can hold values of rows, which are patient data. It is not passed on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from db.errors import PneumoscreenError


class DatabaseFailed(PneumoscreenError):
    """The job table's database refused a statement. Run `doctor`; if it finds nothing, report this."""

    code = "database-failed"


class DatabaseUnreachable(DatabaseFailed):
    """The job table cannot be opened. Check PNEUMOSCREEN_HOME or PNEUMOSCREEN_DATABASE_URL; run `doctor`.

    Its server may also be down or have no free connection. Workers wait for it and continue by themselves.
    """

    code = "database-unreachable"


class DatabaseFull(DatabaseFailed):
    """The disk of the job table is full, or broken. Make room there, and give the command again.

    Workers wait and continue by themselves. Nothing was written in part.
    """

    code = "database-full"


class DatabaseReadOnly(DatabaseFailed):
    """The job table is read-only. Let this user write to it, or name the primary server in the URL."""

    code = "database-read-only"


class DatabaseBusy(DatabaseFailed):
    """The job table was busy for too long. Try again, or raise PNEUMOSCREEN_DATABASE_BUSY_SECONDS.

    On PostgreSQL the limit is the server's `statement_timeout` or `lock_timeout`. Workers try again.
    """

    code = "database-busy"


class DatabaseRefused(DatabaseFailed):
    """The job table's server refuses this user or its settings. Correct rights, limits or tables there.

    A batch that meets this error is requeued, and no image fails. The detail is PostgreSQL's SQLSTATE or
    SQLite's result code.
    """

    code = "database-refused"


class DatabaseDamaged(DatabaseFailed):
    """The files of the job table are damaged. Stop everything, check the disk and restore a backup."""

    code = "database-damaged"


#: Errors that pass by themselves, or once somebody has fixed the cause: they are tried again soon.
PASSING = (DatabaseUnreachable, DatabaseFull, DatabaseReadOnly, DatabaseBusy)

#: Errors that no image causes. The others include a row that the table does not accept.
BLAMELESS = (*PASSING, DatabaseRefused, DatabaseDamaged)

#: Our errors by the beginning of SQLite's names (https://sqlite.org/rescode.html); the longest one counts.
_SQLITE = {
    "SQLITE_BUSY": DatabaseBusy,  # another connection writes, or recovers the log
    "SQLITE_LOCKED": DatabaseBusy,  # the same within one shared cache
    "SQLITE_PROTOCOL": DatabaseBusy,  # too many tries to lock the log failed
    "SQLITE_INTERRUPT": DatabaseBusy,  # the statement was cancelled
    "SQLITE_ABORT": DatabaseBusy,  # another statement rolled the transaction back
    "SQLITE_SCHEMA": DatabaseBusy,  # an upgrade changed the tables meanwhile
    "SQLITE_NOMEM": DatabaseBusy,  # the machine is out of memory
    "SQLITE_IOERR_NOMEM": DatabaseBusy,
    "SQLITE_IOERR_BLOCKED": DatabaseBusy,
    "SQLITE_IOERR_LOCK": DatabaseBusy,  # the lock server of a network file system
    "SQLITE_FULL": DatabaseFull,
    "SQLITE_IOERR": DatabaseFull,  # the disk does not read or write
    "SQLITE_READONLY": DatabaseReadOnly,
    "SQLITE_CANTOPEN": DatabaseUnreachable,
    "SQLITE_PERM": DatabaseRefused,  # the file's mode
    "SQLITE_AUTH": DatabaseRefused,
    "SQLITE_NOLFS": DatabaseRefused,  # the file system has no large files
    "SQLITE_CORRUPT": DatabaseDamaged,
    "SQLITE_NOTADB": DatabaseDamaged,
}

#: Our errors by the beginning of a SQLSTATE (PostgreSQL's appendix A); the longest one counts. The other
#: codes are mistakes in statements and values that the table does not accept.
_POSTGRESQL = {
    # 08, connection exception: all pass. A connection pooler uses 08P01 for most of its errors.
    "08": DatabaseUnreachable,
    # 25, transaction state: a standby or a read-only server (25006); the server's limits on a transaction
    # that does nothing (25P03) or lasts too long (25P04).
    "25006": DatabaseReadOnly,
    "25P03": DatabaseBusy,
    "25P04": DatabaseBusy,
    # 28, 3D, 42501 and 42P01: the user lacks a right, or the database or table does not exist (yet).
    "28": DatabaseRefused,
    "3D": DatabaseRefused,
    "42501": DatabaseRefused,
    "42P01": DatabaseRefused,
    # 40, rollback: 40001 serialization failure, 40003 completion unknown, 40P01 deadlock. All pass but
    # 40002, a constraint that was checked at the commit.
    "40": DatabaseBusy,
    "40002": DatabaseFailed,
    # 53, insufficient resources: 53200 out of memory and 53300 too many connections pass; a full disk
    # (53100) passes once somebody makes room; 53400 is a limit of the configuration, such as temp_file_limit.
    "53": DatabaseUnreachable,
    "53100": DatabaseFull,
    "53400": DatabaseRefused,
    # 54, program limit: the server accepts no writes before a vacuum, or it is a limit of its build.
    "54": DatabaseRefused,
    # 55, not in the right state: an object in use (55006) and a lock (55P03) pass; the others, such as
    # a parameter that cannot be changed now (55P02), are due to the server's configuration.
    "55": DatabaseRefused,
    "55006": DatabaseBusy,
    "55P03": DatabaseBusy,
    # 57, operator intervention: 57014 is statement_timeout or a cancelled query; with 57P01 to 57P05 the
    # server stops, crashed, starts, lost its database (until it is restored) or closed an idle session.
    "57": DatabaseUnreachable,
    "57014": DatabaseBusy,
    # 58, system error: the server's disk, or a file that is missing on it.
    "58": DatabaseFull,
    # XX001 and XX002, damaged data and indexes; XX000 is a defect of the server, which a row may trigger.
    "XX001": DatabaseDamaged,
    "XX002": DatabaseDamaged,
}


@contextmanager
def our_errors() -> Iterator[None]:
    """Raise errors of the database and its driver as DatabaseFailed."""
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
    told_code = name or state or ""
    known = _SQLITE if name else _POSTGRESQL
    if beginnings := [beginning for beginning in known if told_code.startswith(beginning)]:
        return known[max(beginnings, key=len)](told_code)
    if state is None and name is None and (error.connection_invalidated or _is_connection(told)):
        return DatabaseUnreachable(type(told).__name__)
    return DatabaseFailed(name or type(told).__name__)


def _is_connection(told: object) -> bool:
    """Tell whether a driver's error has no code because the connection failed: no server gave one."""
    from psycopg import OperationalError

    return isinstance(told, OperationalError)
