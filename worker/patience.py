"""Waits for a job table that is away, while there is a point in it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.orm import Session

from db.database_errors import PASSING
from db.engine import Database

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds before the second try, and the most between two: a database that comes back is used within them.
_FIRST_SECONDS, _MOST_SECONDS = 0.25, 2.0


def patiently(database: Database, what: str, write: Callable[[Session], T], stop: Callable[[], bool]) -> T:
    """Return what `write` returns in a transaction, again and again where the job table is away for now.

    `stop` is asked before each further try. A try whose connection was lost while it committed may have had
    its effect: `write` is to be safe to repeat. Raises DatabaseFailed.
    """
    pause = _FIRST_SECONDS
    while True:
        try:
            with database.write() as session:
                return write(session)
        except PASSING as error:
            if stop():
                raise
            log.warning("%s: %s; trying again", what, error.code)
        time.sleep(pause)
        pause = min(2 * pause, _MOST_SECONDS)
