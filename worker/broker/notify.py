"""The doorbell: messages that say that there is work, and nothing of what it is."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from celery import Celery

log = logging.getLogger(__name__)


class Bell(Protocol):
    """Notifies a queue of rows."""

    def ring(self, row_id: int) -> None:
        """Send a message. Raises OperationalError."""
        ...

    def waiting(self) -> int:
        """Return how many messages nobody has taken yet. Raises OperationalError."""
        ...


@dataclass(frozen=True, slots=True)
class QueueBell:
    """The bell of one of the broker's queues."""

    app: Celery
    queue: str
    #: The task that gets the row's id.
    task: str

    def ring(self, row_id: int) -> None:
        """Send a message. Raises OperationalError."""
        self.app.send_task(self.task, args=(row_id,))

    def waiting(self) -> int:
        """Return the queue's length. Raises OperationalError."""
        from kombu.exceptions import OperationalError
        from redis.exceptions import RedisError

        try:
            with self.app.connection_for_read() as connection:
                return int(connection.default_channel._size(self.queue))
        except (RedisError, OSError) as error:
            raise OperationalError(type(error).__name__) from None


def ring_for(bell: Bell, due: Sequence[int], *, open_rows: int) -> list[int]:
    """Ring for rows that are due until the queue holds a message for each open row; return which.

    Messages pile up while nobody takes them, and one of a row that has ended meanwhile still brings a worker:
    more than there are open rows would only have to be dropped later. A broker that is unavailable costs
    nothing: the next tick rings.
    """
    from kombu.exceptions import OperationalError

    rung: list[int] = []
    try:
        missing = open_rows - bell.waiting() if due else 0
        for row_id in due[: max(missing, 0)]:
            bell.ring(row_id)
            rung.append(row_id)
    except OperationalError:
        log.warning("the broker is unavailable; %d rows wait for the next tick", len(due) - len(rung))
    return rung


def ask_for_batches() -> None:
    """Ask once, after what is to be screened has been committed; nobody there to hear it does no harm."""
    from worker.broker.app import DISPATCH

    _ask(DISPATCH)


def ask_for_nights() -> None:
    """Ask for a look at the nightly runs."""
    from worker.broker.app import NIGHTLY

    _ask(NIGHTLY)


def _ask(task: str) -> None:
    from kombu.exceptions import OperationalError

    from worker.broker.app import make_app

    # Not `worker.broker.app.app`, whose broker is that of the moment when it was imported.
    app = make_app()
    try:
        app.send_task(task)
    except OperationalError:
        log.info("no broker to ask; the next tick does it")
