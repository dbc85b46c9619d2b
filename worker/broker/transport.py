"""Kombu's Redis transport, made safe against lost acknowledgements and data that is not a message."""

from __future__ import annotations

import logging
from typing import Any

from kombu.transport import redis, virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads

log = logging.getLogger(__name__)


class _QoS(redis.QoS):
    """The messages that a worker has taken and not acknowledged yet."""

    def ack(self, delivery_tag: Any) -> None:
        """Acknowledge a message, and forget it even if the broker does not get the acknowledgement.

        Kombu would count such a message for ever. When all messages that a worker may hold are of that kind,
        it would silently take no more. The broker delivers the message again later, which does no harm.
        """
        try:
            super().ack(delivery_tag)  # type: ignore[no-untyped-call]
        except BaseException:
            virtual.QoS.ack(self, delivery_tag)  # type: ignore[no-untyped-call]
            raise


class _Channel(redis.Channel):
    QoS = _QoS

    def _handle_message(self, client: Any, r: Any) -> dict[str, Any]:
        """Return a broadcast message, without its data if that is not a message: kombu would log it."""
        payload: dict[str, Any] = super()._handle_message(client, r)  # type: ignore[no-untyped-call]
        is_message = bytes_to_str(payload["type"]).endswith("message")  # type: ignore[no-untyped-call]
        if is_message and not _is_envelope(payload["data"]):
            log.warning("refused data that is not a message")
            payload["data"] = None
        return payload


def _is_envelope(data: Any) -> bool:
    try:
        return isinstance(loads(bytes_to_str(data)), dict)  # type: ignore[no-untyped-call]
    except Exception:  # decoders raise all kinds of errors for damaged text
        return False


class Transport(redis.Transport):
    """The transport of `redis://` and `rediss://`."""

    Channel = _Channel
