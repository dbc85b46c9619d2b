"""What a worker takes from its queues: tasks of ours with row ids; from nobody anything else.

`worker.broker.app` names this consumer to Celery. Celery's own would print what it does not understand, and
wait for what is due in a hundred years. Celery's commands come another way: see `worker.broker.control`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

from celery.worker.consumer import Consumer
from kombu import compression

log = logging.getLogger(__name__)

#: Largest body in bytes; ours have about a hundred.
_BODY_BYTES = 4096

#: Largest id of a row, in the database's integers.
_LARGEST_ID = 2**63 - 1

#: Celery's ids of tasks, which stand in logs.
_TASK_ID = re.compile(r"[0-9a-zA-Z-]{1,64}")

#: Headers that make Celery do more than run a task now.
_ORDERS = ("eta", "shadow", "timelimit", "group", "stamps", "stamped_headers")


def _refuse_compressed(_: bytes) -> bytes:
    raise ValueError("nothing of ours is compressed")


class Doorman(Consumer):  # type: ignore[misc]
    """Celery's consumer behind a check of every message."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # A small message would grow to any size before it could be looked at.
        for kind in compression.encoders():  # type: ignore[no-untyped-call]
            compression.register(None, _refuse_compressed, kind)  # type: ignore[no-untyped-call]
        super().__init__(*args, **kwargs)
        self._read_on: Callable[..., Any] = self.loop  # type: ignore[has-type]
        self.loop = self._read_envelopes

    def _read_envelopes(self, *args: Any) -> Any:
        try:
            return self._read_on(*args)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            # What stood in a queue is not even kombu's envelope: it is gone, and a new connection goes on.
            log.warning("refused what is no message")
            raise ConnectionResetError from None

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
        """Return what is called with each message of a queue."""
        handle: Callable[[Any], Any] = super().create_task_handler(*args, **kwargs)

        def on_message(message: Any) -> Any:
            reason = refusal(message, self.app)
            return self._refuse(message, reason) if reason else handle(message)

        return on_message

    def _refuse(self, message: Any, reason: str) -> None:
        log.warning("refused a message: %s", reason)
        message.ack_log_error(log, self.connection_errors)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Refuse what is not JSON, without printing it."""
        self._refuse(message, "it is not JSON")

    def on_unknown_message(self, body: object, message: Any) -> None:
        """Refuse what is no task, without printing it."""
        self._refuse(message, "it is no task")

    def on_unknown_task(self, body: object, message: Any, exc: Exception) -> None:
        """Refuse what this worker does not do, without printing it."""
        self._refuse(message, "its task is not one of this worker's")

    def on_invalid_task(self, body: object, message: Any, exc: Exception) -> None:
        """Refuse what Celery finds invalid, without printing it."""
        self._refuse(message, "it is not valid")


def refusal(message: Any, app: Any) -> str:
    """Return why a message is refused, in words that hold nothing of it; empty for one of ours."""
    return _of_envelope(message) or _of_headers(message.headers, app) or _of_body(message, app)


def _of_envelope(message: Any) -> str:
    if not isinstance(message.headers, dict) or "task" not in message.headers:
        return "it is no task"
    if message.content_type != "application/json" or "compression" in message.headers or message.errors:
        return "it is not JSON"
    return "it is too large" if len(message.body or b"") > _BODY_BYTES else ""


def _of_headers(headers: dict[str, Any], app: Any) -> str:
    name = headers["task"]
    if not isinstance(name, str) or name.startswith("celery.") or name not in app.tasks:
        return "its task is not one of this worker's"
    ours = _TASK_ID.fullmatch(str(headers.get("id"))) and not any(
        _is_set(headers.get(one)) for one in _ORDERS
    )
    return "" if ours else "it asks for more than its task"


def _of_body(message: Any, app: Any) -> str:
    try:
        args, kwargs, embedded = message.payload
        if kwargs or any(map(_is_set, embedded.values())):
            return "it asks for more than its task"
        if not all(type(one) is int and 0 < one <= _LARGEST_ID for one in args):
            return "its arguments are no row ids"
        app.tasks[message.headers["task"]].__header__(*args)
    except TypeError:
        return "its arguments are not those of its task"
    except Exception:  # whatever a body leads its decoder into
        return "it is not JSON"
    return ""


def _is_set(value: object) -> bool:
    """Tell whether a header says something; Celery leaves the others at None, [None, None] or {}."""
    return any(map(_is_set, value)) if isinstance(value, list) else bool(value)
