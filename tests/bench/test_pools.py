"""Celery's pools for the screening worker: images per second, and whether it answers while it works.

Flower and `doctor` ask a worker over Celery's remote control; a worker that does not answer while it
screens looks dead to both. Prefork is left out: it forks a process in which torch has run, and torch's
threads and CUDA context do not survive a fork.
"""

from __future__ import annotations

import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import func, select

from db.engine import Database
from db.models.registry import ensure_champion
from db.states import ImageState
from db.tables import Image
from db.upkeep.migrate import upgrade
from deploy.models import default_model
from deploy.stack import Stack
from scheduler.cli.system.running import start_stack, workers_answer
from scheduler.ingest.sources.folder import FolderSource
from scheduler.submit import submit
from tests.bench.figures import Figures
from tests.stack import stop_process
from worker.broker.app import make_app

POOLS = {
    "solo": ["--pool=solo"],
    "threads, 1 batch": ["--pool=threads", "--concurrency=1"],
    "threads, 2 batches": ["--pool=threads", "--concurrency=2"],
}

#: Seconds after which a worker counts as silent; Flower and `doctor` wait for about one.
SILENT_SECONDS = 3.0

pytestmark = [pytest.mark.bench, pytest.mark.shared]


@contextmanager
def screening_worker(options: list[str], log: Path) -> Iterator[None]:
    """Run a screening worker with a pool, beside the stack, whose own screening worker is stopped."""
    command = [
        sys.executable, "-m", "celery", "-A", "worker.tasks", "worker", "-Q", "screen", "-n", "screen@%h",
        "--without-gossip", "--without-mingle", *options,
    ]  # fmt: skip
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
        try:
            deadline = time.monotonic() + 120
            while not workers_answer():
                assert time.monotonic() < deadline, log.read_text()
            yield
        finally:
            process.terminate()
            process.wait(60)


def screen(database: Database, folder: Path, name: str) -> tuple[float, list[float]]:
    """Screen a cohort; return images per second, and how long the worker took to answer meanwhile."""
    app = make_app()
    answers: list[float] = []
    start = time.perf_counter()
    cohort = submit(database, FolderSource(folder), name=name)
    done = 0
    while done < cohort.found:
        asked = time.perf_counter()
        # The first answer ends the wait, so only the screening worker is asked.
        app.control.ping(destination=[f"screen@{socket.gethostname()}"], timeout=SILENT_SECONDS, limit=1)
        answers.append(time.perf_counter() - asked)
        time.sleep(0.5)
        with database.read() as session:
            done = session.scalars(
                select(func.count())
                .select_from(Image)
                .where(Image.cohort_id == cohort.cohort_id, Image.state == ImageState.DONE)
            ).one()
    return done / (time.perf_counter() - start), answers


def test_a_pool_of_two_threads_answers_while_it_screens(
    shared: Path, home: Path, tmp_path: Path, figures: Figures
) -> None:
    folder = shared / "chest_xray_original"
    database = Database()
    upgrade(database)
    ensure_champion(database, default_model())
    stack = Stack()
    found: dict[str, tuple[float, list[float]]] = {}
    try:
        start_stack(database, stack)
        stop_process(stack, "worker")
        for name, options in POOLS.items():
            with screening_worker(options, tmp_path / "worker.log"):
                screen(database, folder, f"{name}, warm-up")
                rate, answers = screen(database, folder, name)
            found[name] = (rate, answers)
    finally:
        stack.stop()
    for name, (rate, answers) in found.items():
        subject = f"pool {name}"
        silent = sum(answer >= SILENT_SECONDS for answer in answers) / len(answers)
        figures.add(subject, "screening", rate, "images/s")
        figures.add(subject, "answers in (median)", statistics.median(answers), "s")
        figures.add(subject, "answers in (longest)", max(answers), "s")
        figures.add(subject, "silent", 100 * silent, "%")
    assert max(found["threads, 2 batches"][1]) < SILENT_SECONDS
