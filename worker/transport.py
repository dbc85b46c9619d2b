"""Kombu's Redis transport, where an acknowledgement that gets lost keeps no worker from further messages."""

from __future__ import annotations

from typing import Any

from kombu.transport import redis, virtual


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


class Transport(redis.Transport):
    """The transport of `redis://` and `rediss://`."""

    Channel = _Channel
