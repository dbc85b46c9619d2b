"""Somebody who may write to the broker can neither run anything, nor stop a worker, nor read it in a log."""

from __future__ import annotations

import base64
import inspect
import json
import pickle
import uuid
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection
from kombu.transport.virtual import Channel, Message
from redis import Redis
from sqlalchemy import func, select

import scheduler.tasks
import training.tasks
import worker.tasks
from db.engine import Database
from db.migrate import upgrade
from db.registry import ensure_champion
from db.settings import secrets_folder
from db.states import ImageState
from db.tables import Image
from deploy.stack import Stack
from scheduler.cli.running import start_stack, workers_answer
from scheduler.ingest import open_source
from scheduler.submit import submit
from tests.waiting import wait_for
from worker.app import DISPATCH, SCREEN_BATCH, make_app
from worker.doorman import refusal

#: With every task of ours.
app = scheduler.tasks.app
assert training.tasks.app is worker.tasks.app is app

#: In every message, and to be found nowhere.
CANARY = "CANARY-7f3a"


class Bomb:
    """Writes a file where it is unpickled."""

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
    """Return what kombu keeps in a queue."""
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


#: What Celery's remote control offers to whoever asks.
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


def malicious(mark: Path) -> dict[str, bytes]:
    """Return messages that are none of ours."""
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
        "nought": call(0),
        "a number beyond the database's": call(2**63),
        "a number of a thousand digits": call(10**1000),
        "a fraction": call(1.5),
        "a truth": call(True),
        "nothing": call(),
        "two numbers": call(1, 2),
        "keywords": call(kwargs={"batch_id": 1, CANARY: 1}),
        "a nest": envelope(nested),
        "arguments that are none": envelope(json.dumps({"args": [CANARY]}).encode()),
        "a large body": call("x" * (2 << 20)),
        "a body that grows": envelope(zlib.compress(b" " * (8 << 20)), compression="zlib"),
        "a hundred years": call(1, eta="2126-01-01T00:00:00+00:00"),
        "another name for logs": call(1, shadow=CANARY),
        "an id that writes lines": call(1, id=f"{CANARY}\nforged line"),
        "an end that is no time": call(1, expires=CANARY),
        "a time limit": call(1, timelimit=[1, 1]),
        "callbacks": call(1, embed={"callbacks": [signature]}),
        "errbacks": call(1, embed={"errbacks": [signature]}),
        "a chain": call(1, embed={"chain": [signature]}),
        "a chord": call(1, embed={"chord": signature}),
        "an old protocol": envelope(json.dumps(old).encode(), task=None),
        "no task": envelope(json.dumps({"note": CANARY}).encode(), task=None),
        **NO_MESSAGES,
    }


#: What kombu cannot even unpack.
NO_MESSAGES = {
    "a body in an unknown code": envelope(b"[[1], {}, {}]", body_encoding=CANARY),
    "no JSON at all": CANARY.encode(),
    "no envelope": json.dumps({CANARY: 1}).encode(),
    "a number for an envelope": b"17",
    "bytes": b"\xff\xfe" + CANARY.encode(),
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


#: What Celery finds and asks the doorman to refuse, and what is refused by workers that do other tasks.
FOUND_LATER = {"an end that is no time", "a task of another worker's"}


def unpack(raw: bytes) -> Message:
    """Return the message as kombu hands it to a worker."""
    return Message(json.loads(raw), channel=Channel(Connection("memory://").transport))


@pytest.mark.parametrize("name", sorted(malicious(Path("/")).keys() - NO_MESSAGES - FOUND_LATER))
def test_a_message_that_is_none_of_ours_is_refused_in_words_that_tell_nothing_of_it(
    name: str, tmp_path: Path
) -> None:
    message = unpack(malicious(tmp_path / "mark")[name])
    reason = refusal(message, app)
    assert reason
    assert CANARY not in reason
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("task", sorted(name for name in app.tasks if not name.startswith("celery.")))
def test_our_own_messages_are_integers_alone_and_taken(task: str) -> None:
    """Walk every task of ours, and a message of each as the program sends it."""
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


@pytest.mark.long
def test_whatever_is_written_to_the_broker_runs_nothing_stops_nothing_and_is_in_no_log(
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
            # They cost the worker its connection, which it makes again.
            wait_for(workers_answer)
    control = make_app().control
    for command, arguments in COMMANDS.items():
        control.broadcast(command, arguments=arguments)
    forged = json.loads(
        envelope(pickle.dumps(Bomb(tmp_path / "mark")), kind="application/x-python-serialize")
    )
    broker.publish("/0.celery.pidbox", json.dumps(forged))
    wait_for(lambda: log.read_text().count("refused a command") == len(COMMANDS), 60)
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
