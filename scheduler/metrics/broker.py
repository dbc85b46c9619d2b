"""Figures of the broker: messages in its queues, and workers that answer through it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from worker.broker.app import QUEUES, make_app

#: The key under which kombu's Redis transport keeps messages that a worker has taken and not acknowledged.
UNACKED = "unacked"

_ANSWER_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class BrokerFigures:
    """The broker in numbers."""

    up: bool
    #: Ready and unacknowledged messages by queue.
    messages: dict[str, tuple[int, int]] = field(default_factory=dict)
    #: Workers that answer, by queue.
    workers: dict[str, int] = field(default_factory=dict)


def ask_broker() -> BrokerFigures:
    """Count messages and workers. A queue's length does not count messages that workers have taken."""
    app = make_app()
    try:
        with app.connection_for_read() as connection:
            channel = connection.default_channel
            ready = {queue: channel._size(queue) for queue in QUEUES}
            taken = Counter(queue_of(value) for value in channel.client.hvals(UNACKED))
        answers = app.control.inspect(timeout=_ANSWER_SECONDS).active_queues() or {}
    except (OperationalError, RedisError, OSError):
        return BrokerFigures(up=False, workers=dict.fromkeys(QUEUES, 0))
    workers = Counter(queue["name"] for queues in answers.values() for queue in queues)
    return BrokerFigures(
        up=True,
        messages={queue: (ready[queue], taken[queue]) for queue in QUEUES},
        workers={queue: workers[queue] for queue in QUEUES},
    )


def queue_of(value: bytes | str) -> str:
    """Return the queue of an unacknowledged message: kombu keeps [message, exchange, routing key]."""
    try:
        return str(json.loads(value)[2])
    except (ValueError, IndexError, TypeError):
        return ""
