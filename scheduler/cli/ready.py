"""The job table, ready for use by a command."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError

from db.engine import Database, DatabaseUnreachable
from db.migrate import upgrade


def ready_database(*, with_champion: bool = False) -> Database:
    """Return the job table, created or upgraded where needed; with a champion where images are taken in.

    Raises DatabaseUnreachable, DatabaseTooNew, DefaultModelMissing.
    """
    try:
        database = Database()
        upgrade(database)
    except (DBAPIError, OSError) as error:
        raise DatabaseUnreachable(type(error).__name__) from error
    if with_champion:
        from db.registry import ensure_champion
        from deploy.models import default_model

        ensure_champion(database, default_model())
    return database
