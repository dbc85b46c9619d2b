"""Waits for a job table that is away, while there is a point in it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeVar

from sqlalchemy.orm import Session

from db.database_errors import PASSING

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds before the second try, and the most between two: a database that comes back is used within them.
_FIRST_SECONDS, _MOST_SECONDS = 0.25, 2.0


def patiently(
    transaction: Callable[[], AbstractContextManager[Session]],
    what: str,
    do: Callable[[Session], T],
    stop: Callable[[], bool],
) -> T:
    """Return what `do` returns in a transaction, again and again while the job table is unavailable.

    `stop` is asked before each further try. A try whose connection was lost while it committed may have had
    its effect: `do` is to be safe to repeat. Raises DatabaseFailed.
    """
    pause = _FIRST_SECONDS
    while True:
        try:
            with transaction() as session:
                return do(session)
        except PASSING as error:
            if stop():
                raise
            log.warning("%s: %s; trying again", what, error.code)
        time.sleep(pause)
        pause = min(2 * pause, _MOST_SECONDS)
