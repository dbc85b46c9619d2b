"""Retries of a transaction while the job table is unavailable."""

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

#: Seconds before the second try, and the longest pause between two tries: a database that is available again
#: is used within this time.
_FIRST_SECONDS, _MOST_SECONDS = 0.25, 2.0


def retry_while_unavailable(
    transaction: Callable[[], AbstractContextManager[Session]],
    what: str,
    do: Callable[[Session], T],
    stop: Callable[[], bool],
) -> T:
    """Return the result of `do` in a transaction; try again for as long as the job table is unavailable.

    `stop` is called before each further try. If the connection was lost during the commit, the try may have
    taken effect, so `do` must be safe to repeat. `what` names the transaction in the log.
    Raises DatabaseFailed.
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
