"""Notifications: messages with the id of a row that waits for a worker, and nothing else."""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from worker.settings import BrokerSettings

if TYPE_CHECKING:
    from celery import Celery

log = logging.getLogger(__name__)

#: The port of a URL that names none, and the seconds that a connection may take, as in `worker.broker.app`.
_PORT, _CONNECT_SECONDS = 6379, 5.0


class Notifier(Protocol):
    """Sends notifications to a queue."""

    def notify(self, row_id: int) -> None:
        """Send a message. Raises OperationalError."""
        ...

    def waiting(self) -> int:
        """Return how many messages no worker has taken yet. Raises OperationalError."""
        ...


@dataclass(frozen=True, slots=True)
class QueueNotifier:
    """The notifier of one of the broker's queues."""

    app: Celery
    queue: str
    #: The task that gets the row's id.
    task: str

    def notify(self, row_id: int) -> None:
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


def notify_queue(notifier: Notifier, due: Sequence[int], *, open_rows: int) -> list[int]:
    """Send messages for rows that are due, until the queue holds one message for each open row.

    Return the rows that a message was sent for. A message for a row that has ended still brings a worker,
    which takes another row. So more messages than open rows are useless: workers would only drop them. If the
    broker is unavailable, the next tick sends the messages.
    """
    from kombu.exceptions import OperationalError

    notified: list[int] = []
    try:
        missing = open_rows - notifier.waiting() if due else 0
        for row_id in due[: max(missing, 0)]:
            notifier.notify(row_id)
            notified.append(row_id)
    except OperationalError:
        log.warning("the broker is unavailable; waiting for the next tick: %d", len(due) - len(notified))
    return notified


def ask_for_batches() -> None:
    """Ask once for batches, after new images are committed. If the message is lost, the next tick acts."""
    if _broker_listens():
        from worker.broker.app import DISPATCH

        _ask(DISPATCH)


def ask_for_nights() -> None:
    """Ask once for the nightly runs that are due."""
    if _broker_listens():
        from worker.broker.app import NIGHTLY

        _ask(NIGHTLY)


def _broker_listens() -> bool:
    """Tell whether anything listens at the broker's address: if not, Celery need not be imported."""
    address = urlsplit(BrokerSettings.read().url)
    if address.hostname is None:  # not TCP
        return True
    try:
        socket.create_connection((address.hostname, address.port or _PORT), _CONNECT_SECONDS).close()
    except OSError:
        log.info("the broker does not run; the next tick does it")
        return False
    return True


def _ask(task: str) -> None:
    from kombu.exceptions import OperationalError

    from worker.broker.app import make_app

    # A new application: that of `worker.broker.app` keeps the broker of its first use, and the embedded stack
    # has another broker after each start.
    app = make_app()
    try:
        app.send_task(task)
    except OperationalError:
        log.info("the broker is unavailable; the next tick does it")
