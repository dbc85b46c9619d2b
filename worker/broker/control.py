"""The remote control of a worker: it answers a few questions, and refuses all other commands.

Kombu's own remote control matches its name against any pattern that it receives, which can take for ever.
It also logs the text of wrong commands.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

from celery.app.control import Control
from kombu import pidbox

log = logging.getLogger(__name__)

#: The commands that ask a worker without changing it, and the arguments that Celery adds to them. Flower,
#: `doctor`, `alive` and the metrics server send them. Flower also asks for events and heartbeats, which
#: workers send anyway.
COMMANDS: dict[str, frozenset[str]] = dict.fromkeys(
    (
        "ping", "active_queues", "reserved", "revoked", "scheduled", "stats", "enable_events", "heartbeat",
    ),
    frozenset(),
) | {
    "active": frozenset({"safe"}),
    "conf": frozenset({"with_defaults"}),
    "registered": frozenset({"taskinfoitems"}),
}  # fmt: skip

#: Kombu's ids of questions and of the processes that ask.
_ID = re.compile(r"[0-9a-f-]{1,64}")


class _Node(pidbox.Node):
    """A worker's end of the remote control. It ignores the clocks in messages: they could have any size."""

    handlers: dict[str, Callable[..., Any]]
    mailbox: Any

    def handle_message(self, body: Any, message: Any = None) -> None:
        """Answer a known question that is for this worker; refuse all other commands."""
        try:
            if not self._is_ours(body):
                log.warning("refused a command that came over the broker")
            elif self.hostname in (body.get("destination") or [self.hostname]):
                self._answer(body["method"], body.get("arguments") or {}, body)
        except Exception:  # the error's text could quote the message
            log.warning("refused a command that could not be answered")

    dispatch_from_message = handle_message

    def _answer(self, method: str, arguments: dict[str, Any], question: dict[str, Any]) -> None:
        answer = self.handlers[method](self.state, **arguments)
        if question.get("reply_to") is not None:
            self.reply({self.hostname: answer}, **question["reply_to"], ticket=question["ticket"])  # type: ignore[no-untyped-call]

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Refuse a command that is not JSON, without printing it."""
        log.warning("refused a command that is not JSON")

    def _is_ours(self, body: Any) -> bool:
        if not isinstance(body, dict) or body.get("pattern") or body.get("matcher"):
            return False
        method, arguments = body.get("method"), body.get("arguments") or {}
        return (
            isinstance(method, str)
            and method in COMMANDS
            and isinstance(arguments, dict)
            and arguments.keys() <= COMMANDS[method]
            and all(value in (None, True, False, []) for value in arguments.values())
            and isinstance(body.get("destination") or [], list)
            and self._is_our_way_back(body.get("reply_to"), body.get("ticket"))
        )

    def _is_our_way_back(self, reply_to: Any, ticket: Any) -> bool:
        if reply_to is None:
            return True
        return (
            isinstance(reply_to, dict)
            and reply_to.keys() == {"exchange", "routing_key"}
            and reply_to["exchange"] == self.mailbox.reply_exchange.name
            and all(isinstance(one, str) and _ID.fullmatch(one) for one in (reply_to["routing_key"], ticket))
        )


class GuardedControl(Control):  # type: ignore[misc]
    """Celery's remote control, whose workers answer only known questions."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mailbox.node_cls = _Node
