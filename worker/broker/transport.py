"""Kombu's Redis transport, which outlives a lost acknowledgement and prints nobody's words."""

from __future__ import annotations

import logging
from typing import Any

from kombu.transport import redis, virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads

log = logging.getLogger(__name__)


class _QoS(redis.QoS):
    """What a worker has taken and not acknowledged yet."""

    def ack(self, delivery_tag: Any) -> None:
        """Acknowledge a message; one that the broker does not hear of no longer counts here either.

        Kombu's own would count it for ever: a worker whose every message is of that kind asks for no more,
        and nothing tells it. The broker hands the message out again some day, which does no harm.
        """
        try:
            super().ack(delivery_tag)  # type: ignore[no-untyped-call]
        except BaseException:
            virtual.QoS.ack(self, delivery_tag)  # type: ignore[no-untyped-call]
            raise


class _Channel(redis.Channel):
    QoS = _QoS

    def _handle_message(self, client: Any, r: Any) -> dict[str, Any]:
        """Return what came to all workers or listeners, without what is no message: kombu would log it."""
        payload: dict[str, Any] = super()._handle_message(client, r)  # type: ignore[no-untyped-call]
        is_message = bytes_to_str(payload["type"]).endswith("message")  # type: ignore[no-untyped-call]
        if is_message and not _is_envelope(payload["data"]):
            log.warning("refused what is no message")
            payload["data"] = None
        return payload


def _is_envelope(data: Any) -> bool:
    try:
        return isinstance(loads(bytes_to_str(data)), dict)  # type: ignore[no-untyped-call]
    except Exception:  # whatever a text leads its decoder into
        return False


class Transport(redis.Transport):
    """The transport of `redis://` and `rediss://`."""

    Channel = _Channel
