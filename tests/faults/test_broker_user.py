"""Attacks through the broker: a writer to it runs nothing, stops no worker and finds nothing in a log."""

from __future__ import annotations

import base64
import inspect
import json
import logging
import pickle
import uuid
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.worker.control import Panel
from flower.inspector import Inspector
from kombu import Connection
from kombu.transport.virtual import Channel, Message
from pydantic import SecretStr
from redis import Redis
from sqlalchemy import func, select

import scheduler.tasks
import training.tasks
import worker.tasks
from db.engine import Database
from db.models.registry import ensure_champion
from db.settings import secrets_folder
from db.states import ImageState
from db.tables import Image
from db.upkeep.migrate import upgrade
from deploy.stack import Stack
from scheduler.cli.system.running import start_stack, workers_answer
from scheduler.ingest import open_source
from scheduler.submit import submit
from tests.waiting import wait_for
from worker.broker.app import DISPATCH, SCREEN_BATCH, make_app
from worker.broker.consumer import refusal
from worker.settings import BrokerSettings

#: The application, with all of our tasks.
app = scheduler.tasks.app
assert training.tasks.app is worker.tasks.app is app

#: A text in every hostile message, which must appear in no log.
CANARY = "CANARY-7f3a"


class Bomb:
    """An object that writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (str(self.mark), "w")


def envelope(
    body: bytes,
    *,
    task: str | None = SCREEN_BATCH,
    kind: str = "application/json",
    encoding: str = "utf-8",
    body_encoding: str = "base64",
    **headers: Any,
) -> bytes:
    """Return a message as kombu keeps it in a queue."""
    names = {"lang": "py", "id": str(uuid.uuid4()), "origin": CANARY, "argsrepr": CANARY}
    return json.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "content-type": kind,
            "content-encoding": encoding,
            "headers": names | ({"task": task} if task else {}) | headers,
            "properties": {
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": "screen"},
                "delivery_tag": str(uuid.uuid4()),
                "body_encoding": body_encoding,
                "correlation_id": CANARY,
                "reply_to": CANARY,
            },
        }
    ).encode()


def call(*args: Any, kwargs: dict[str, Any] | None = None, embed: Any = None, **more: Any) -> bytes:
    """Return a message that calls a task as Celery does."""
    nothing = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    return envelope(json.dumps([args, kwargs or {}, nothing | (embed or {})]).encode(), **more)


#: Commands of Celery's remote control, which no process of ours uses.
COMMANDS: dict[str, dict[str, Any]] = {
    "shutdown": {},
    "pool_restart": {"modules": [CANARY]},
    "rate_limit": {"task_name": SCREEN_BATCH, "rate_limit": 0},
    "add_consumer": {"queue": CANARY},
    "cancel_consumer": {"queue": "screen"},
    "pool_shrink": {"n": 9},
    "revoke": {"task_id": CANARY},
    "time_limit": {"task_name": SCREEN_BATCH, "hard": 1},
    "election": {"id": 1, "topic": CANARY, "action": {}},
    "objgraph": {},
    CANARY: {},
}


#: An address for answers that no process of ours reads.
WAY_BACK = {"exchange": "reply.celery.pidbox", "routing_key": str(uuid.uuid4())}

#: Commands for a worker that no process of ours sends.
QUESTIONS: dict[str, Any] = {
    "a list": [CANARY],
    "a text": CANARY,
    "nothing": {},
    "a pattern that takes for ever": {"method": "ping", "pattern": "(.|.|.|.)*$x", "matcher": "pcre"},
    "a pattern": {"method": "ping", "pattern": ".*", "matcher": "pcre"},
    "an invalid pattern": {"method": "ping", "pattern": f"({CANARY}", "matcher": "pcre"},
    "an unknown matcher": {"method": "ping", "pattern": "x", "matcher": CANARY},
    "an invalid matcher": {"method": "ping", "pattern": "x", "matcher": [CANARY]},
    "an unknown command": {"method": CANARY},
    "an invalid command": {"method": {CANARY: 1}},
    "an unknown argument": {"method": "active_queues", "arguments": {CANARY: 1}},
    "a wrong value": {"method": "active", "arguments": {"safe": CANARY}},
    "an argument of another command": {"method": "ping", "arguments": {"safe": True}},
    "invalid arguments": {"method": "ping", "arguments": CANARY},
    "an invalid destination": {"method": "ping", "destination": CANARY},
    "an invalid address for answers": {"method": "ping", "reply_to": CANARY, "ticket": CANARY},
    "an answer to another exchange": {
        "method": "ping", "reply_to": WAY_BACK | {"exchange": CANARY}, "ticket": str(uuid.uuid4()),
    },
    "an invalid ticket": {"method": "ping", "reply_to": WAY_BACK, "ticket": [CANARY]},
}  # fmt: skip


def malicious(mark: Path) -> dict[str, bytes]:
    """Return messages that no process of ours sends."""
    bomb = pickle.dumps([[Bomb(mark)], {}, {}])
    signature = {"task": DISPATCH, "args": [CANARY], "kwargs": {}, "options": {}, "subtask_type": None}
    nested = json.dumps([[1], {}, {}]).replace("1", "[" * 1500 + "]" * 1500).encode()
    old = {"task": SCREEN_BATCH, "id": CANARY, "args": [1], "kwargs": {}, "note": CANARY}
    return {
        "a pickle": envelope(bomb, kind="application/x-python-serialize", encoding="binary"),
        "a pickle in the name of JSON": envelope(bomb),
        "a pickle as data": envelope(bomb, kind="application/data", encoding="binary"),
        "YAML": envelope(f"!!python/object/apply:open [{mark}, w]".encode(), kind="application/x-yaml"),
        "text": envelope(CANARY.encode(), kind="text/plain"),
        "an unknown task": call(1, CANARY, task=f"os.system.{CANARY}"),
        "a task of Celery's": call(signature, [CANARY], task="celery.map"),
        "a task of another worker's": call(1, task="training.run"),
        "a string": call(CANARY),
        "a dictionary": call({CANARY: 1}),
        "a list": call([1]),
        "a negative number": call(-1),
        "zero": call(0),
        "a number beyond the database's": call(2**63),
        "a number of a thousand digits": call(10**1000),
        "a fraction": call(1.5),
        "a boolean": call(True),
        "nothing": call(),
        "two numbers": call(1, 2),
        "keywords": call(kwargs={"batch_id": 1, CANARY: 1}),
        "nested lists": envelope(nested),
        "invalid arguments": envelope(json.dumps({"args": [CANARY]}).encode()),
        "a large body": call("x" * (2 << 20)),
        "a compressed body": envelope(zlib.compress(b" " * (8 << 20)), compression="zlib"),
        "a task in a hundred years": call(1, eta="2126-01-01T00:00:00+00:00"),
        "another name for logs": call(1, shadow=CANARY),
        "an id that writes lines": call(1, id=f"{CANARY}\nforged line"),
        "an invalid expiry": call(1, expires=CANARY),
        "a time limit": call(1, timelimit=[1, 1]),
        "callbacks": call(1, embed={"callbacks": [signature]}),
        "errbacks": call(1, embed={"errbacks": [signature]}),
        "a chain": call(1, embed={"chain": [signature]}),
        "a chord": call(1, embed={"chord": signature}),
        "an old protocol": envelope(json.dumps(old).encode(), task=None),
        "no task": envelope(json.dumps({"note": CANARY}).encode(), task=None),
        **NO_MESSAGES,
    }


#: Messages that kombu cannot unpack.
NO_MESSAGES = {
    "a body in an unknown encoding": envelope(b"[[1], {}, {}]", body_encoding=CANARY),
    "no JSON at all": CANARY.encode(),
    "no envelope": json.dumps({CANARY: 1}).encode(),
    "a number instead of an envelope": b"17",
    "bytes": b"\xff\xfe" + CANARY.encode(),
    "deeply nested JSON": b"[" * 100_000,
}


@pytest.fixture
def database(home: Path, artefact: Path) -> Iterator[Database]:
    """Start the embedded stack."""
    database = Database()
    upgrade(database)
    ensure_champion(database, artefact)
    start_stack(database, Stack())
    Stack().wait_ready(workers_answer)
    yield database
    Stack().stop()
    database.close()


def pids() -> dict[str, int]:
    return {process.name: process.pid for process in Stack().processes()}


#: Messages that `refusal` accepts: Celery itself finds one invalid, and only other workers refuse the other.
FOUND_LATER = {"an invalid expiry", "a task of another worker's"}


def unpack(raw: bytes) -> Message:
    """Return the message as kombu passes it to a worker."""
    return Message(json.loads(raw), channel=Channel(Connection("memory://").transport))


@pytest.mark.parametrize("name", sorted(malicious(Path("/")).keys() - NO_MESSAGES - FOUND_LATER))
def test_a_foreign_message_is_refused_with_a_reason_that_does_not_quote_it(name: str, tmp_path: Path) -> None:
    message = unpack(malicious(tmp_path / "mark")[name])
    reason = refusal(message, app)
    assert reason
    assert CANARY not in reason
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("task", sorted(name for name in app.tasks if not name.startswith("celery.")))
def test_our_own_messages_contain_only_integers_and_are_accepted(task: str) -> None:
    """Check a message of each of our tasks, as the program sends it."""
    parameters = inspect.signature(app.tasks[task].run).parameters.values()
    assert all(one.annotation in ("int", int) for one in parameters)
    args = [7 for _ in parameters]
    with Connection("memory://") as connection:
        queue = app.amqp.router.route({}, task)["queue"](connection.channel())
        queue.declare()
        app.send_task(task, args=args, connection=connection, expires=30)
        message = queue.get()
    assert refusal(message, app) == ""
    assert json.loads(message.body)[0] == args


@pytest.fixture
def asked() -> Iterator[tuple[Celery, Any, list[str]]]:
    """Give an application, a worker's node of its remote control, and the names of executed commands."""
    app = make_app(BrokerSettings(broker_url=SecretStr("memory://")))
    obeyed: list[str] = []
    with app.connection_for_read() as connection:
        node = app.control.mailbox(connection).Node(
            "screen@here",
            channel=connection.channel(),
            # Every command of Celery, registered as a worker registers it.
            handlers={
                name: lambda _, name=name, **__: obeyed.append(name) or {"ok": 1} for name in Panel.data
            },
        )
        node.listen()
        yield app, node, obeyed


@pytest.mark.parametrize("name", sorted({*QUESTIONS, *COMMANDS} - {"a pattern that takes for ever"}))
def test_a_foreign_command_is_refused_with_a_log_line_that_does_not_quote_it(
    name: str, asked: tuple[Celery, Any, list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    _, node, obeyed = asked
    with caplog.at_level(logging.DEBUG):
        node.handle_message(QUESTIONS.get(name, {"method": name, "arguments": COMMANDS.get(name)}))
    assert obeyed == []
    assert [record.getMessage() for record in caplog.records] == [
        "refused a command that came over the broker"
    ]
    assert CANARY not in caplog.text


def test_the_logical_clock_in_a_command_is_ignored(asked: tuple[Celery, Any, list[str]]) -> None:
    app, node, obeyed = asked
    for clock in (10**4000, CANARY):
        node.handle_message({"method": "ping"}, unpack(envelope(b"{}", task=None, clock=clock)))
    assert obeyed == ["ping", "ping"]
    assert app.clock.value < 100


def test_a_command_that_cannot_be_answered_is_logged_in_fixed_words(
    asked: tuple[Celery, Any, list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    _, node, _ = asked
    node.handlers["ping"] = lambda _: int(CANARY)
    node.handle_message({"method": "ping", "reply_to": WAY_BACK, "ticket": WAY_BACK["routing_key"]})
    assert "could not be answered" in caplog.text
    assert CANARY not in caplog.text


def test_our_own_commands_are_answered(asked: tuple[Celery, Any, list[str]]) -> None:
    """Send the commands of Flower, `doctor`, `alive` and the metrics server."""
    app, node, obeyed = asked
    connection = node.mailbox.connection
    for destination in (None, ["screen@here"], ["screen@elsewhere"]):
        ask = app.control.inspect(timeout=0.1, destination=destination, connection=connection)
        for method in (*Inspector.inspect_methods, "ping"):
            answers = getattr(ask, method)(**({"safe": True} if method == "active" else {}))
            # A command to one worker waits for one message, which here is the command itself.
            assert answers == (None if destination else {"screen@here": {"ok": 1}}), method
    assert obeyed == [*Inspector.inspect_methods, "ping"] * 2
    app.control.enable_events(connection=connection)
    app.control.heartbeat(connection=connection)
    app.control.ping(timeout=0.1, connection=connection)
    assert obeyed[-3:] == ["enable_events", "heartbeat", "ping"]


@pytest.mark.long
def test_messages_written_to_the_broker_run_nothing_stop_nothing_and_appear_in_no_log(
    database: Database, home: Path, phantoms: Path, tmp_path: Path
) -> None:
    broker = Redis.from_url((secrets_folder() / "pneumoscreen_broker_url").read_text())
    log = home / "logs" / "worker.log"
    before = pids()
    messages = malicious(tmp_path / "mark")
    for count, (name, message) in enumerate(messages.items(), 1):
        broker.lpush("screen", message)
        wait_for(lambda count=count: log.read_text().count("refused ") == count, 60)  # type: ignore[misc]
        assert not (tmp_path / "mark").exists(), f"{name} was run"
        if name in NO_MESSAGES:
            # Such a message costs the worker its connection; it connects again.
            wait_for(workers_answer)
    control = make_app().control
    for command, arguments in COMMANDS.items():
        control.broadcast(command, arguments=arguments)
    for question in QUESTIONS.values():
        broker.publish("/0.celery.pidbox", envelope(json.dumps(question).encode(), task=None))
    broker.publish("/0.celery.pidbox", CANARY)
    forged = json.loads(
        envelope(pickle.dumps(Bomb(tmp_path / "mark")), kind="application/x-python-serialize")
    )
    broker.publish("/0.celery.pidbox", json.dumps(forged))
    wait_for(lambda: log.read_text().count("refused a command") == len(COMMANDS) + len(QUESTIONS), 60)
    submit(database, open_source(str(phantoms)), name="trial")

    def done() -> int:
        with database.read() as session:
            query = select(func.count()).select_from(Image).where(Image.state == ImageState.DONE)
            return session.scalars(query).one()

    wait_for(lambda: done() == 10)
    assert pids() == before, "a process was stopped"
    assert workers_answer()
    assert not (tmp_path / "mark").exists()
    for file in (home / "logs").iterdir():
        assert CANARY not in file.read_text(), file.name
    assert "forged line" not in log.read_text()
