"""What the queue adds to a real model, against a loop that decodes and predicts the same pictures."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import pytest
from sqlalchemy import func, select

from db.engine import Database
from db.jobs.claims import Claim, ClaimedImage
from db.lease import new_lease
from db.models.registry import ensure_champion
from db.states import TERMINAL
from db.tables import Batch, Image
from db.upkeep.migrate import upgrade
from deploy.models import default_model
from deploy.stack import Stack
from scheduler.cli.system.running import start_stack, workers_answer
from scheduler.ingest.sources.folder import FolderSource
from scheduler.submit import submit
from tests.bench.figures import Figures
from tests.pictures import save_film
from tests.waiting import wait_for
from worker.runtime.loading import chosen, load_model
from worker.runtime.passes import Passes
from worker.runtime.precision import LoadedModel
from worker.runtime.protocol import Runtime
from worker.screening.reading import BatchReader
from worker.screening.step import Waiting, gate, predict
from worker.settings import WorkerSettings

IMAGES, WARM = 512, 32
#: The most that the queue may add.
OVERHEAD = 0.03

pytestmark = pytest.mark.bench


def cpu_seconds(roots: Iterable[int]) -> float:
    """Return the processor time of processes and of all their descendants, in seconds."""
    parents, seconds = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(") ")[2].split()
        except OSError:
            continue
        # proc(5): the parent is field 4; user, system and waited-for children's ticks are fields 14 to 17.
        parents[int(entry.name)] = int(fields[1])
        seconds[int(entry.name)] = sum(map(int, fields[11:15])) / 100
    wanted = set(roots)
    while more := {pid for pid, parent in parents.items() if parent in wanted} - wanted:
        wanted |= more
    return sum(seconds.get(pid, 0) for pid in wanted)


def loop(runtime: Runtime, reader: BatchReader, files: list[Path], settings: WorkerSettings) -> int:
    """Decode and predict files in this process; return how many have an outcome."""
    claimed = Claim(
        batch_id=1,
        cohort_id=1,
        model_id=1,
        source_id=1,
        source=str(files[0].parent),
        lease=new_lease(Batch, 1, seconds=30),
        attempt=1,
        images=tuple(ClaimedImage(number, str(file), 0) for number, file in enumerate(files)),
    )
    passes = Passes[Waiting](
        LoadedModel(runtime), adaptive=settings.precision == "adaptive", size=settings.forward_images
    )
    steps = chain(map(gate, reader.steps(claimed)), (None,))
    return sum(len(predict(passes, decoded)) for decoded in steps)


def screen(
    database: Database, folder: Path, name: str, pids: dict[str, int]
) -> tuple[dict[str, float], float]:
    """Screen a cohort; return each process' processor time, and the seconds from first batch to last."""
    before = {process: cpu_seconds([pid]) for process, pid in pids.items()}
    submitted = submit(database, FolderSource(folder), name=name)
    of_cohort = Image.cohort_id == submitted.cohort_id, Image.state.in_(TERMINAL)

    def ended() -> bool:
        with database.read() as session:
            return session.scalars(select(func.count()).where(*of_cohort)).one() == submitted.found

    wait_for(ended, 300)
    spent = {process: cpu_seconds([pid]) - before[process] for process, pid in pids.items()}
    with database.read() as session:
        whole = func.max(Batch.finished_at) - func.min(Batch.created_at)
        return spent, session.scalars(select(whole).where(Batch.cohort_id == submitted.cohort_id)).one()


def test_the_queue_adds_little_to_a_real_model(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figures: Figures
) -> None:
    monkeypatch.delenv("PNEUMOSCREEN_FORWARD_IMAGES")
    folders = {"warm": WARM, "all": IMAGES}
    for name, images in folders.items():
        (tmp_path / name).mkdir()
        for number in range(images):
            save_film(tmp_path / name / f"{number:04d}.png", number)
    settings = WorkerSettings.read()
    runtime = load_model(default_model(), runtime=chosen(settings.runtime))
    reader = BatchReader(settings)
    files = {name: sorted((tmp_path / name).iterdir()) for name in folders}
    loop(runtime, reader, files["warm"], settings)

    before, start = cpu_seconds([os.getpid()]), time.perf_counter()
    assert loop(runtime, reader, files["all"], settings) == IMAGES
    bare, bare_wall = cpu_seconds([os.getpid()]) - before, time.perf_counter() - start
    database = Database()
    upgrade(database)
    ensure_champion(database, default_model())
    stack = Stack()
    try:
        start_stack(database, stack)
        stack.wait_ready(workers_answer)
        pids = {
            process.name: process.pid
            for process in stack.processes()
            if process.name in ("worker", "housekeeping", "beat", "broker")
        }
        screen(database, tmp_path / "warm", "warm", pids)
        spent, wall = screen(database, tmp_path / "all", "all", pids)
    finally:
        stack.stop()
    ours = sum(spent.values())
    figures.add("real model", "loop without queue", 1000 * bare / IMAGES, "ms of processor an image")
    figures.add("real model", "through the queue", 1000 * ours / IMAGES, "ms of processor an image")
    for process, seconds in spent.items():
        figures.add("real model", f"of these, {process}", 1000 * seconds / IMAGES, "ms of processor an image")
    figures.add("real model", "added by the queue", ours / bare - 1, "", goal=OVERHEAD)
    figures.add("real model", "seconds against those of the loop", wall / bare_wall, "times")
    assert ours / bare - 1 <= OVERHEAD
