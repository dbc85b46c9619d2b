"""The whole stack on the device: many files, every one once, whatever dies meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import func, select

from db.engine import Database
from db.models.registry import ensure_champion
from db.states import TERMINAL, ImageState
from db.tables import Batch, Image, Prediction
from db.upkeep.migrate import upgrade
from deploy.control import Control
from deploy.models import default_model
from deploy.stack import Stack
from scheduler.cli.system.running import start_stack, workers_answer
from scheduler.ingest import open_source
from scheduler.submit import submit
from tests.faults.invariant import check as check_job_table
from tests.gpu.bench import Bench
from tests.gpu.pictures import lay_out
from tests.stack import stop_process

_ROOT = Path(__file__).parent.parent.parent

#: Leases that expire soon, for workers that are killed.
_QUICK = {"LEASE_SECONDS": "5", "SWEEP_SECONDS": "1", "DISPATCH_SECONDS": "0.5", "WAIT_SECONDS": "2"}


@contextmanager
def running(bench: Bench, name: str, **settings: str) -> Iterator[Database]:
    """Run the embedded stack in a data directory of its own, with the shipped model."""
    bench.home(name)
    settings = {"FORWARD_IMAGES": str(bench.sizes.forward), "RUNTIME": "torch"} | settings
    os.environ.update({f"PNEUMOSCREEN_{key}": value for key, value in settings.items()})
    database = Database()
    upgrade(database)
    ensure_champion(database, default_model())
    stack = Stack()
    try:
        start = time.monotonic()
        start_stack(database, stack)
        stack.wait_ready(workers_answer)
        bench.findings.measure("until the workers answer", time.monotonic() - start, "s")
        yield database
    finally:
        stack.stop()


def screening(bench: Bench) -> None:
    """Screen many files; meanwhile ask `doctor`, the metrics and Flower for the device."""
    count = bench.sizes.screened
    lay_out(bench, bench.scratch / "many", count)
    lay_out(bench, bench.scratch / "few", 2 * bench.sizes.forward)
    with running(bench, "screening") as database:
        _screen(bench, database, bench.scratch / "few", "warm-up", 2 * bench.sizes.forward)
        _screen(bench, database, bench.scratch / "many", "many", count)
        _check_every_one_once(bench, database, count + 2 * bench.sizes.forward)
        _measure_batches(bench, database)
        _ask_for_the_device(bench)


def _screen(bench: Bench, database: Database, folder: Path, name: str, count: int) -> None:
    start = time.monotonic()
    cohort = submit(database, open_source(str(folder)), name=name).cohort_id
    bench.findings.measure(f"{name}: files listed and opened", count / (time.monotonic() - start), "images/s")
    while (done := ended(database, cohort)) < count:
        if done:
            _measure_rate(bench, database, name, cohort)
        time.sleep(0.5)
    bench.findings.measure(
        f"{name}: from submit to the last prediction", count / (time.monotonic() - start), "images/s"
    )
    _measure_rate(bench, database, name, cohort)


def ended(database: Database, cohort: int) -> int:
    """Return how many images of a cohort have ended."""
    query = select(func.count()).select_from(Image)
    with database.read() as session:
        return session.scalars(query.where(Image.cohort_id == cohort, Image.state.in_(TERMINAL))).one()


def _measure_rate(bench: Bench, database: Database, name: str, cohort: int) -> None:
    """Note images per second from the first batch that was cut to the last that is finished by now."""
    with database.read() as session:
        first, last, images = session.execute(
            select(func.min(Batch.created_at), func.max(Batch.finished_at), func.sum(Batch.size)).where(
                Batch.cohort_id == cohort, Batch.finished_at.is_not(None)
            )
        ).one()
    if images and last > first:
        rate = float(images) / (last - first)
        bench.findings.measure(f"{name}: first batch to last", rate, "images/s", f"{images} images")


def _measure_batches(bench: Bench, database: Database) -> None:
    """Note where the time of a batch goes."""
    with database.read() as session:
        sums = session.execute(
            select(
                func.sum(Batch.decode_seconds), func.sum(Batch.forward_seconds),
                func.sum(Batch.write_seconds),
                func.max(Batch.gpu_memory_bytes), func.sum(Batch.size),
            )
        ).one()  # fmt: skip
    for step, seconds in zip(("waiting for decoders", "forward passes", "writing"), sums[:3], strict=True):
        bench.findings.measure(f"{step}, for 1,000 images", 1000 * (seconds or 0) / sums[4], "s")
    if sums[3]:
        bench.findings.measure("GPU memory", sums[3] / 2**30, "GiB")


def _check_every_one_once(bench: Bench, database: Database, count: int) -> None:
    """Check that each image has one prediction, and every invariant of the job table."""
    check_job_table(database, ended=True)
    with database.read() as session:
        predictions = session.scalars(select(func.count()).select_from(Prediction)).one()
        images = session.scalars(select(func.count(func.distinct(Prediction.image_id)))).one()
        states = dict(session.execute(select(Image.state, func.count()).group_by(Image.state)).all())
    once = predictions == images == states.get(ImageState.DONE, 0) == count
    shown = ", ".join(f"{number} {state}" for state, number in states.items())
    bench.findings.check(f"{count} files: every one is predicted once", once, shown)


def _ask_for_the_device(bench: Bench) -> None:
    """Look whether `doctor`, the metrics and Flower name the device and its memory."""
    from worker.runtime.torch.device import gpus

    findings, stack = bench.findings, Stack()
    workers = [process for process in stack.processes() if process.name.startswith("worker")]
    wanted = len(gpus()) or 1
    findings.check("one worker process for each GPU", len(workers) == wanted, f"{len(workers)} of {wanted}")
    doctor = subprocess.run(
        [sys.executable, "-m", "scheduler", "doctor"], cwd=_ROOT, capture_output=True, text=True, check=False
    ).stdout
    metrics = _fetch(stack.metrics_address)
    user, password = stack.flower_login
    login = {"Authorization": "Basic " + b64encode(f"{user}:{password}".encode()).decode()}
    answer = json.loads(_fetch(f"{stack.flower_address}/api/workers?refresh=1", login))
    flower = json.dumps({name: worker for name, worker in answer.items() if name.startswith("screen")})
    findings.check("Flower shows the screening worker and its GPUs", '"gpus"' in flower)
    if not bench.is_gpu:
        findings.note("names of the GPU", "not looked for: there is none")
        return
    (gpu, *_) = gpus()
    # In a table of the terminal a name may be broken over lines.
    findings.check("doctor names the GPU and its memory", gpu in " ".join(doctor.split()), gpu)
    findings.check("the metrics have the GPU memory in use", "pneumoscreen_gpu_memory_bytes{" in metrics)
    findings.check("Flower names the GPU and its memory", gpu in flower)


def _fetch(address: str, headers: dict[str, str] | None = None) -> str:
    request = urllib.request.Request(address, headers=headers or {})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return str(answer.read().decode())


def deaths(bench: Bench) -> None:
    """Kill the worker in the middle of a cohort, then let its GPU fail: every file is screened once."""
    count = bench.sizes.endangered
    for name in ("killed", "lost"):
        lay_out(bench, bench.scratch / name, count)
    with running(bench, "deaths", **_QUICK) as database:
        killed = _submit(database, bench.scratch / "killed", "killed")
        _wait(lambda: ended(database, killed) >= count // 3)
        worker = next(process for process in Stack().processes() if process.name == "worker")
        os.kill(worker.pid, signal.SIGKILL)
        before = ended(database, killed)
        start = time.monotonic()
        _wait(lambda: ended(database, killed) > before)
        bench.findings.measure("from the kill to the next result", time.monotonic() - start, "s")
        _wait(lambda: ended(database, killed) == count)
        _check_every_one_once(bench, database, count)
        stop_process(Stack(), "worker")
        lost = _submit(database, bench.scratch / "lost", "lost")
        _lose_the_device(bench)
        Control(Stack().run).call("startProcess", "worker")
        _wait(lambda: ended(database, lost) == count)
        _check_every_one_once(bench, database, 2 * count)


def _submit(database: Database, folder: Path, name: str) -> int:
    return submit(database, open_source(str(folder)), name=name).cohort_id


def _lose_the_device(bench: Bench) -> None:
    """Run a worker whose device fails in its first forward pass, and wait until it ends by itself."""
    log = Stack().logs / "lost_device.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "tests.gpu.lost_device", "worker", "-Q", "screen",
             "-n", "screen-lost@%h", "--pool=threads", "--concurrency=2", "--loglevel=INFO"],
            cwd=_ROOT, stdout=file, stderr=file,
        )  # fmt: skip
        try:
            code = process.wait(60)
        finally:
            process.kill()
    said = "the GPU failed; this worker ends" in log.read_text(errors="replace")
    bench.findings.check("a worker that lost its device says so, and ends", said, f"exit code {code}")


def _wait(condition: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("a condition did not hold in time")
        time.sleep(0.2)
