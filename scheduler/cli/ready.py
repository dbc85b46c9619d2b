"""The job table, ready for use by a command."""

from __future__ import annotations

from db.database_errors import DatabaseUnreachable
from db.engine import Database
from db.upkeep.migrate import upgrade


def ready_database(*, with_champion: bool = False) -> Database:
    """Return the job table, created or upgraded if needed.

    With `with_champion`, it also has a champion and the key of the pseudonyms. Raises DatabaseFailed,
    DatabaseTooNew, DefaultModelMissing, SiteKeyMissing, SiteKeyDiffers, SiteKeyUnusable.
    """
    try:
        database = Database()
        upgrade(database)
    except OSError as error:  # SQLite's folder
        raise DatabaseUnreachable(type(error).__name__) from None
    if with_champion:
        from db.models.registry import ensure_champion
        from deploy.models import default_model
        from scheduler.ingest.pseudonym import ensure_site_key

        ensure_site_key(database)
        ensure_champion(database, default_model())
    return database
