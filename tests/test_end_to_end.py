"""The whole system with real processes: Valkey, Celery workers, beat, Flower and the command line."""

from __future__ import annotations

import base64
import csv
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from redis import Redis
from redis.exceptions import ResponseError
from sqlalchemy import func, select

from db.engine import Database
from db.models.registry import ensure_champion
from db.settings import secrets_folder
from db.states import BatchState, ImageState
from db.tables import Batch, Image, Prediction, TrainingResult, TrainingRun
from db.upkeep.migrate import upgrade
from deploy.stack import Stack
from tests.commands import CLI, run
from tests.conftest import postgres_url
from tests.installation import Valkey, make_secrets, point, settings
from tests.waiting import wait_for
from worker.broker.app import QUEUES
from worker.phantoms import write_phantoms


class Embedded:
    """The broker of the embedded stack, which restarts it by itself."""

    def forget(self) -> None:
        """Delete all of its data, with the rights of our own user."""
        broker = Redis.from_url((secrets_folder() / "pneumoscreen_broker_url").read_text())
        with suppress(ResponseError):  # it was empty
            broker.delete(*broker.keys())

    def die_and_come_back(self) -> None:
        os.kill(pid_of("broker"), signal.SIGKILL)


@pytest.fixture
def broker(request: pytest.FixtureRequest, home: Path, tmp_path: Path) -> Iterator[Embedded | Valkey]:
    """Set up SQLite and the embedded Valkey, or PostgreSQL and a Valkey with TLS and ACL."""
    if getattr(request, "param", "embedded") == "embedded":
        yield Embedded()
        return
    secrets = make_secrets(tmp_path)
    with Valkey(secrets) as valkey, pytest.MonkeyPatch.context() as patch:
        point(secrets, valkey, postgres_url(request.getfixturevalue("postgres"), "installed"))
        patch.setenv("PNEUMOSCREEN_EMBEDDED_BROKER", "false")
        for name, value in settings(secrets).items():
            patch.setenv(name, value)
        yield valkey


#: The tests run on both; the longest run on the second one only with `make test-all`.
BOTH = pytest.mark.parametrize("broker", ["embedded", "installed"], indirect=True)
BOTH_AT_LENGTH = pytest.mark.parametrize(
    "broker", ["embedded", pytest.param("installed", marks=pytest.mark.long)], indirect=True
)


@pytest.fixture
def job_table(
    broker: Embedded | Valkey, artefact: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Database]:
    """Prepare a data directory with a small champion, and a stack that soon notices a dead worker."""
    monkeypatch.setenv("PNEUMOSCREEN_LEASE_SECONDS", "3")
    monkeypatch.setenv("PNEUMOSCREEN_SWEEP_SECONDS", "1")
    monkeypatch.setenv("PNEUMOSCREEN_RING_AGAIN_SECONDS", "3")
    monkeypatch.setenv("PNEUMOSCREEN_TRAINING_LEASE_SECONDS", "3")
    database = Database()
    upgrade(database)
    ensure_champion(database, artefact)
    yield database
    Stack().stop()
    database.close()


def batches_held(database: Database) -> int:
    with database.read() as session:
        query = select(func.count()).select_from(Batch).where(Batch.state == BatchState.RUNNING)
        return session.scalars(query).one()


def done_images(database: Database) -> int:
    with database.read() as session:
        return session.scalars(
            select(func.count()).select_from(Image).where(Image.state == ImageState.DONE)
        ).one()


def write_copies(folder: Path, count: int) -> None:
    """Write copies of a few phantoms: drawing is slow, and screening treats copies like other images."""
    drawn = [path for path in write_phantoms(folder / "drawn", 10) if path.suffix != ""]
    for number in range(count - 10):
        path = drawn[number % len(drawn)]
        shutil.copy(path, folder / f"{number}{path.suffix}")


def pid_of(name: str) -> int:
    return next(process.pid for process in Stack().processes() if process.name == name)


@BOTH
def test_200_images_are_predicted_once_despite_a_killed_worker_and_a_flushed_broker(
    job_table: Database, broker: Embedded | Valkey, tmp_path: Path
) -> None:
    write_copies(tmp_path / "x-rays", 200)
    run("up")
    run("submit", str(tmp_path / "x-rays"), "--cohort", "trial")
    # The worker must hold a batch when it is killed; two batches may end together before the next is claimed.
    wait_for(lambda: done_images(job_table) >= 20 and batches_held(job_table) > 0)
    killed = pid_of("worker")
    os.kill(killed, signal.SIGKILL)
    in_the_middle = done_images(job_table)
    assert in_the_middle < 180, "it was too fast to be killed in the middle"
    broker.forget()
    run("watch", "trial")
    assert pid_of("worker") not in (0, killed)
    with job_table.read() as session:
        assert session.scalars(select(func.count()).select_from(Prediction)).one() == 200
        assert session.scalars(select(func.count(Prediction.image_id.distinct()))).one() == 200
        assert session.scalars(select(func.max(Batch.attempt))).one() > 1, "no batch was lost by the kill"
    (status,) = json.loads(run("status", "trial", "--json").stdout)
    assert (status["total"], status["done"], status["finished"]) == (200, 200, True)
    run("down")


@BOTH_AT_LENGTH
def test_screen_starts_the_stack_writes_results_and_stops_the_stack(
    job_table: Database, phantoms: Path, tmp_path: Path
) -> None:
    out = tmp_path / "results.csv"
    run("screen", str(phantoms), "--out", str(out))
    with out.open(encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "cohort", "study", "series", "instance", "source", "state",
        "probability", "label", "threshold", "model", "error", "type", "type_probability",
        "image", "patient", "time", "precision", "runtime", "preprocessing", "software",
        "familiarity", "caution", "acceptance",
    ]  # fmt: skip
    assert [row["state"] for row in rows] == ["done"] * 10
    assert all(0 <= float(row["probability"]) <= 1 for row in rows)
    assert not Stack().is_running()
    with job_table.read() as session:
        before = session.scalars(select(Prediction.created_at)).all()
    run("screen", str(phantoms), "--out", str(out))
    with job_table.read() as session:
        assert session.scalars(select(Prediction.created_at)).all() == before, "something was screened twice"


@BOTH_AT_LENGTH
def test_two_concurrent_screens_in_one_home_both_succeed(
    job_table: Database, phantoms: Path, tmp_path: Path
) -> None:
    write_copies(tmp_path / "many", 200)
    screens = [
        subprocess.Popen(
            [*CLI, "screen", str(source), "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for source in (phantoms, tmp_path / "many")
    ]
    ended = [screen.communicate(timeout=180) for screen in screens]
    assert [screen.returncode for screen in screens] == [0, 0], ended
    assert [json.loads(out)["done"] for out, _ in ended] == [10, 200]
    assert Stack().is_gone()


def test_the_stack_runs_in_a_home_of_any_name(
    artefact: Path, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "a #b ;c" / '"d" %e %(f)s %%g' / "'h' ?i [j]* \\k $l ~m" / ("deep" * 30)
    monkeypatch.setenv("PNEUMOSCREEN_HOME", str(home))
    database = Database()
    upgrade(database)
    ensure_champion(database, artefact)
    try:
        run("up")
        assert {process.state for process in Stack().processes()} == {"RUNNING"}
        assert json.loads(run("screen", str(phantoms), "--json").stdout)["done"] == 10
        (status,) = json.loads(run("status", "--json").stdout)
        run("results", status["name"], "--out", str(home / "results.csv"))
        assert run("down").stdout.strip() == "Stopped."
    finally:
        Stack().stop()
        database.close()
    assert (home / "pneumoscreen.db").is_file()
    assert (home / "logs" / "worker.log").is_file()


@pytest.mark.long
def test_demo_says_that_its_probabilities_mean_nothing_before_it_shows_them(home: Path) -> None:
    shown = run("demo", "--images", "6").stdout
    assert "Phantoms have no anatomy" in shown.partition("P(PNEUMONIA)")[0]
    assert "PNEUMONIA (" in shown


@BOTH_AT_LENGTH
def test_screen_ends_with_1_if_an_image_failed(job_table: Database, tmp_path: Path) -> None:
    write_phantoms(tmp_path / "x-rays", 2)
    (tmp_path / "x-rays" / "text.jpg").write_text("not an image")
    done = run("screen", str(tmp_path / "x-rays"), "--json", expect=1)
    assert json.loads(done.stdout)["problems"] == {"not-an-image": 1}


@BOTH_AT_LENGTH
def test_ctrl_c_stops_cleanly_and_the_same_command_continues(job_table: Database, tmp_path: Path) -> None:
    write_copies(tmp_path / "x-rays", 250)
    out = tmp_path / "results.json"
    command = ["screen", str(tmp_path / "x-rays"), "--out", str(out)]
    # A shell ignores Ctrl-C for its background jobs, and the process would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [*CLI, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_for(lambda: done_images(job_table) >= 10)
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "continues" in complaint
    assert "Traceback" not in complaint
    assert not Stack().is_running()
    first = done_images(job_table)
    assert 10 <= first < 250, "it was too fast to be interrupted"
    run(*command)
    assert [row["state"] for row in json.loads(out.read_text())] == ["done"] * 250
    with job_table.read() as session:
        assert session.scalars(select(func.count()).select_from(Prediction)).one() == 250


def ask(url: str, headers: dict[str, str], content: bytes | None = None) -> bytes:
    """Send a request and return the answer's body."""
    request = urllib.request.Request(url, content, headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return bytes(answer.read())


@BOTH_AT_LENGTH
@pytest.mark.parametrize(
    "signals", [[signal.SIGQUIT], pytest.param([signal.SIGTERM, signal.SIGTERM], marks=pytest.mark.long)]
)
def test_a_worker_that_may_not_finish_gives_its_batches_back_at_once(
    job_table: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signals: list[signal.Signals]
) -> None:
    # The lease would expire only long after this test.
    monkeypatch.setenv("PNEUMOSCREEN_LEASE_SECONDS", "600")
    write_copies(tmp_path / "x-rays", 200)
    run("up")
    run("submit", str(tmp_path / "x-rays"), "--cohort", "trial")
    wait_for(lambda: done_images(job_table) >= 10)
    worker = pid_of("worker")
    for number in signals:
        os.kill(worker, number)
        time.sleep(0.2)
    wait_for(lambda: pid_of("worker") not in (0, worker))
    run("watch", "trial")
    with job_table.read() as session:
        assert session.scalars(select(func.count()).select_from(Prediction)).one() == 200
        assert session.scalars(select(func.max(Batch.attempt))).one() == 1, "a batch given back was counted"


def test_the_stack_refuses_access_without_a_login_and_restarts_dead_processes(
    job_table: Database, home: Path, phantoms: Path
) -> None:
    done = json.loads(run("up", "--json").stdout)
    again = run("up")
    assert "The stack runs already." in again.stdout
    assert done["flower"] in again.stdout
    assert "RUNNING" in again.stdout
    url = (home / "secrets" / "pneumoscreen_broker_url").read_text()
    port = int(url.rsplit(":", 1)[1].split("/")[0])
    with pytest.raises(Exception, match="authenticate"):
        Redis(port=port).ping()
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(done["flower"], timeout=10)
    user, password = Stack().flower_login
    request = urllib.request.Request(done["flower"] + "/workers")
    credentials = base64.b64encode(f"{user}:{password}".encode()).decode()
    request.add_header("Authorization", f"Basic {credentials}")
    wait_for(lambda: b"screen@" in urllib.request.urlopen(request, timeout=10).read())
    run("submit", str(phantoms), "--cohort", "trial")
    tasks = done["flower"] + "/api/tasks?taskname=screen.batch"
    wait_for(lambda: "{'batch': 1, 'cohort': 1}" in ask(tasks, request.headers).decode())
    listed = json.loads(ask(done["flower"] + "/api/tasks", request.headers)).values()
    assert {one["name"] for one in listed} == {"screen.batch"}, "ticks displace the batches"
    lengths = json.loads(ask(done["flower"] + "/api/queues/length", request.headers))["active_queues"]
    assert {one["name"] for one in lengths} == set(QUEUES)
    for closed, status in (("/api/task/send-task/screen.batch", 403), ("/metrics", 404)):
        with pytest.raises(urllib.error.HTTPError, match=str(status)):
            ask(done["flower"] + closed, request.headers, b"{}" if status == 403 else None)
    metrics = urllib.request.urlopen(done["metrics"], timeout=10).read().decode()
    assert "pneumoscreen_broker_up 1.0" in metrics
    for queue in QUEUES:
        assert f'pneumoscreen_workers{{queue="{queue}"}} 1.0' in metrics
    for private in (*(home / "secrets").iterdir(), home / "run" / "valkey.conf", home / "pneumoscreen.db"):
        assert private.stat().st_mode & 0o077 == 0, private.name
    for process in Stack().processes():
        command = Path(f"/proc/{process.pid}/cmdline").read_bytes().decode()
        assert password not in command
        assert url.split(":")[2].split("@")[0] not in command
    killed = pid_of("broker")
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: pid_of("broker") not in (0, killed))
    pids = [process.pid for process in Stack().processes()]
    run("down")
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert "not running" in run("down").stdout


@BOTH
def test_a_cohort_is_screened_after_the_broker_died_and_came_back(
    job_table: Database, broker: Embedded | Valkey, phantoms: Path
) -> None:
    run("up")
    broker.die_and_come_back()
    run("submit", str(phantoms), "--cohort", "trial")
    run("watch", "trial")
    assert done_images(job_table) == 10


def run_state(run_id: int) -> dict[str, Any]:
    """Return a training run as `runs` lists it."""
    return next(one for one in json.loads(run("runs", "--json").stdout) if one["run"] == run_id)


def write_labelled(folder: Path) -> Path:
    """Draw two classes that any model can tell apart."""
    random = np.random.default_rng(4)
    for label, level in (("NORMAL", 60), ("PNEUMONIA", 180)):
        (folder / label).mkdir(parents=True)
        for number in range(20):
            pixels = np.clip(random.normal(level, 20, (64, 64)), 0, 255).astype(np.uint8)
            PIL.Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return folder


@BOTH_AT_LENGTH
def test_queued_retraining_survives_a_killed_worker_and_its_winner_screens_the_next_batch(
    job_table: Database, tmp_path: Path
) -> None:
    data = write_labelled(tmp_path / "labelled")
    run("up")
    backbones = "resnet18,resnet34,resnet50,alexnet"
    arguments = ["retrain", str(data), "--recipe", "thesis", "--backbones", backbones, "--epochs", "1"]
    options = ["--random-weights", "--promote", "auto", "--queue", "--json"]
    run_id = json.loads(run(*arguments, *options).stdout)["run"]
    wait_for(lambda: run_state(run_id)["progress"].get("epoch") is not None, 180)
    (worker,) = [process for process in Stack().processes() if process.name == "training"]
    os.kill(worker.pid, signal.SIGKILL)
    wait_for(lambda: run_state(run_id)["state"] == "done", 400)
    with job_table.read() as session:
        results = session.scalars(select(TrainingResult).where(TrainingResult.run_id == run_id)).all()
        assert sorted(one.backbone for one in results) == sorted(backbones.split(","))
        assert {len(one.epochs) for one in results} == {2}
        assert session.scalars(select(TrainingRun.attempt)).one() == 2
    models = json.loads(run("models", "list", "--json").stdout)
    (champion,) = [one for one in models if one["state"] == "champion"]
    assert champion["model"].split("-")[0] in backbones
    write_phantoms(tmp_path / "x-rays", 6)
    run("screen", str(tmp_path / "x-rays"), "--out", str(tmp_path / "r.csv"))
    with (tmp_path / "r.csv").open(newline="") as file:
        assert {row["model"] for row in csv.DictReader(file)} == {champion["model"]}
    run("models", "rollback")
    models = json.loads(run("models", "list", "--json").stdout)
    assert [one["model"] for one in models if one["state"] == "champion"] != [champion["model"]]
