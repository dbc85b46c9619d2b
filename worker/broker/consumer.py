"""The consumer of a worker: it accepts only our own tasks whose arguments are row ids.

`worker.broker.app` names it to Celery. Celery's own consumer prints messages that it does not understand, and
keeps tasks that are due in a hundred years. `worker.broker.control` guards Celery's commands.
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

#: Celery's ids of tasks, which are logged.
_TASK_ID = re.compile(r"[0-9a-zA-Z-]{1,64}")

#: Headers that make Celery do more than run a task now.
_ORDERS = ("eta", "shadow", "timelimit", "group", "stamps", "stamped_headers")


def _refuse_compressed(_: bytes) -> bytes:
    raise ValueError("our messages are not compressed")


class TaskConsumer(Consumer):  # type: ignore[misc]
    """Celery's consumer, with a check of every message."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # A small compressed message could grow to any size before it is checked.
        for kind in compression.encoders():  # type: ignore[no-untyped-call]
            compression.register(None, _refuse_compressed, kind)  # type: ignore[no-untyped-call]
        super().__init__(*args, **kwargs)
        self._read_on: Callable[..., Any] = self.loop  # type: ignore[has-type]
        self.loop = self._read_envelopes

    def _read_envelopes(self, *args: Any) -> Any:
        try:
            return self._read_on(*args)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            # The message is not even kombu's envelope. It is removed, and a new connection continues.
            log.warning("refused data that is not a message")
            raise ConnectionResetError from None

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
        """Return the function that handles each message of a queue."""
        handle: Callable[[Any], Any] = super().create_task_handler(*args, **kwargs)

        def on_message(message: Any) -> Any:
            reason = refusal(message, self.app)
            return self._refuse(message, reason) if reason else handle(message)

        return on_message

    def _refuse(self, message: Any, reason: str) -> None:
        log.warning("refused a message: %s", reason)
        message.ack_log_error(log, self.connection_errors)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Refuse a message that is not JSON, without printing it."""
        self._refuse(message, "it is not JSON")

    def on_unknown_message(self, body: object, message: Any) -> None:
        """Refuse a message that is not a task, without printing it."""
        self._refuse(message, "it is not a task")

    def on_unknown_task(self, body: object, message: Any, exc: Exception) -> None:
        """Refuse a task that this worker does not have, without printing it."""
        self._refuse(message, "its task is not one of this worker's")

    def on_invalid_task(self, body: object, message: Any, exc: Exception) -> None:
        """Refuse a task that Celery finds invalid, without printing it."""
        self._refuse(message, "it is not valid")


def refusal(message: Any, app: Any) -> str:
    """Return why a message is refused, empty if it is accepted. The text quotes nothing of the message."""
    return _of_envelope(message) or _of_headers(message.headers, app) or _of_body(message, app)


def _of_envelope(message: Any) -> str:
    if not isinstance(message.headers, dict) or "task" not in message.headers:
        return "it is not a task"
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
            return "its arguments are not row ids"
        app.tasks[message.headers["task"]].__header__(*args)
    except TypeError:
        return "its arguments are not those of its task"
    except Exception:  # decoders raise all kinds of errors for a damaged body
        return "it is not JSON"
    return ""


def _is_set(value: object) -> bool:
    """Tell whether a header is set. Celery sends the others as None, [None, None] or {}."""
    return any(map(_is_set, value)) if isinstance(value, list) else bool(value)
