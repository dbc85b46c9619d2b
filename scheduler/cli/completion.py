"""What a shell completes: names of cohorts, ids of models, and recipes.

A completion answers at once or not at all. It says nothing of errors, and creates no job table.
"""

from __future__ import annotations

import shlex
import threading
from contextlib import suppress

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from db.engine import Database
from db.errors import PneumoscreenError
from db.settings import DatabaseSettings
from db.tables import Cohort, Model

#: The most names that are offered, the newest first.
_MOST = 100
#: Seconds that a database may take. A server that is down must not block the shell.
_SECONDS = 2.0


def cohorts(incomplete: str) -> list[str]:
    """Return the names of cohorts that begin with some text."""
    return _names(Cohort, incomplete)


def models(incomplete: str) -> list[str]:
    """Return the ids of models that begin with some text."""
    return _names(Model, incomplete)


def recipes(incomplete: str) -> list[str]:
    """Return the recipes of `retrain` that begin with some text."""
    from training.recipe import RecipeName

    return [name.value for name in RecipeName if name.startswith(incomplete)]


def _names(table: type[Cohort] | type[Model], incomplete: str) -> list[str]:
    found: list[str] = []

    def ask() -> None:
        with suppress(PneumoscreenError, SQLAlchemyError, OSError):
            settings = DatabaseSettings.read()
            if not settings.url and not settings.file.is_file():
                return
            begins = table.name.startswith(incomplete, autoescape=True)
            query = select(table.name).where(begins).order_by(table.id.desc()).limit(_MOST)
            with Database(settings).read() as session:
                # Shells insert a completion as it is: a blank or a quote in a name would end the word.
                found.extend(name for name in session.scalars(query) if shlex.quote(name) == name)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_SECONDS)
    return list(found)
