"""Creation and upgrade of the tables with Alembic."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text

from db.database_errors import our_errors
from db.errors import PneumoscreenError

if TYPE_CHECKING:
    from db.engine import Database

_MIGRATIONS = Path(__file__).parent.parent / "migrations"

#: The number of PostgreSQL's advisory lock for upgrades: one runs at a time.
_UPGRADE_LOCK = 70_110_224


class DatabaseTooNew(PneumoscreenError):
    """The job table is of a newer version of pneumoscreen. Install that version, or restore a backup."""

    code = "database-too-new"


def head_revision() -> str:
    """Return the revision that this version needs: the last of the numbered migration files."""
    return max(file.stem.split("_")[0] for file in (_MIGRATIONS / "versions").glob("[0-9]*.py"))


def current_revision(database: Database) -> str | None:
    """Return the revision that the database has, or None for an empty one."""
    with database.read() as session:
        if not inspect(session.connection()).has_table("alembic_version"):
            return None
        return session.execute(text("SELECT version_num FROM alembic_version")).scalar()


def upgrade(database: Database, *, to: str | None = None) -> None:
    """Create the tables, or upgrade older ones. Safe to run in several processes at once.

    Raises DatabaseTooNew, DatabaseFailed.
    """
    current, head = current_revision(database), to or head_revision()
    if current == head:
        return
    if current is not None and current > head:
        raise DatabaseTooNew(current)
    with our_errors(), database.engine.begin() as connection:
        upgrade_on(connection, to=head)


def upgrade_on(connection: Connection, *, to: str | None = None) -> None:
    """Create or upgrade the tables in a connection's transaction. Other upgrades wait until it ends."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    # SQLite holds its write lock from BEGIN IMMEDIATE on. An upgrade that waited finds nothing left to do.
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _UPGRADE_LOCK})
    config.attributes["connection"] = connection
    command.upgrade(config, to or head_revision())
