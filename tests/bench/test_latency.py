"""How long one image takes: an urgent one in a busy system, and one in a data directory that is new."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from db.engine import Database
from db.jobs.cohorts import cancel, find_cohort
from db.models.registry import ensure_champion
from db.queries.progress import progress
from db.upkeep.migrate import upgrade
from deploy.models import default_model
from scheduler.ingest.sources.folder import FolderSource
from scheduler.submit import submit
from tests.bench.figures import Figures
from tests.bench.radiographs import radiographs, repeat
from tests.bench.spans.reading import PASS, Span, note_spans, read_spans
from tests.bench.test_throughput import warm_stack
from tests.waiting import wait_for
from worker.phantoms import write_phantoms

#: Urgent images, and cold starts.
URGENT, COLD = 5, 3
#: The wanted seconds, and those of a cold start.
URGENT_GOAL, COLD_GOAL = 3.0, 10.8
#: The folder of the picture, if one is wanted.
PICTURES = os.environ.get("BENCH_PICTURES")

pytestmark = pytest.mark.bench


def test_an_urgent_image_does_not_wait_for_a_busy_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figures: Figures
) -> None:
    monkeypatch.delenv("PNEUMOSCREEN_FORWARD_IMAGES")
    files = radiographs(tmp_path / "drawn")
    repeat(files[:16], tmp_path / "warm", 1)
    repeat(files, tmp_path / "films", max(1, 600 // len(files)))
    database = Database()
    upgrade(database)
    ensure_champion(database, default_model())
    seconds = []
    with warm_stack(database, tmp_path / "warm", "warm"):
        submit(database, FolderSource(tmp_path / "films"), name="films", priority=0)
        for number in range(URGENT):
            wait_for(lambda: is_busy(database))
            time.sleep(1.5 + number / URGENT)  # at different moments of a pass
            (tmp_path / f"urgent-{number}").mkdir()
            shutil.copy(files[number], tmp_path / f"urgent-{number}")
            start = time.perf_counter()
            screen_urgent(database, tmp_path / f"urgent-{number}")
            seconds.append(time.perf_counter() - start)
        with database.write() as session:
            cancel(session, find_cohort(session, "films"))
    figures.add("latency", "an urgent image in a busy system, median", statistics.median(seconds), "s")
    figures.add("latency", "the slowest", max(seconds), "s", goal=URGENT_GOAL)
    assert max(seconds) < URGENT_GOAL


def is_busy(database: Database) -> bool:
    """Tell whether both batches of the worker are under way, and others wait."""
    with database.read() as session:
        now = progress(session, ["films"])[0]
    return now.running > 0 and now.queued > 0


def screen_urgent(database: Database, folder: Path) -> None:
    """Submit one image with the highest priority, and wait for its prediction."""
    submitted = submit(database, FolderSource(folder), name=folder.name, priority=9)
    while True:
        with database.read() as session:
            if progress(session, [submitted.cohort])[0].done == 1:
                return
        time.sleep(0.02)


def test_one_image_in_a_new_data_directory_takes_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figures: Figures
) -> None:
    monkeypatch.delenv("PNEUMOSCREEN_FORWARD_IMAGES")
    write_phantoms(tmp_path / "phantoms", 6)
    film = next(path for path in sorted((tmp_path / "phantoms" / "dicom").rglob("*")) if path.is_file())
    runs = []
    for number in range(COLD):
        monkeypatch.setenv("PNEUMOSCREEN_HOME", str(tmp_path / f"home-{number}"))
        note_spans(tmp_path / f"spans-{number}", monkeypatch)
        begin = time.time()
        subprocess.run(
            [sys.executable, "-m", "scheduler", "screen", str(film), "--json"],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        runs.append((time.time() - begin, begin, read_spans(tmp_path / f"spans-{number}")))
        shutil.rmtree(tmp_path / f"home-{number}")
    whole, begin, spans = sorted(runs)[COLD // 2]
    steps = steps_of(spans, begin, begin + whole)
    figures.add("cold start", "screen one.dcm in a new data directory", whole, "s", goal=COLD_GOAL)
    figures.add("cold start", "until the image is screened", steps["forward pass, commit"][1], "s")
    figures.add_shares("cold start", {name: last - first for name, (first, last) in steps.items()})
    if PICTURES:
        draw(steps, Path(PICTURES) / "cold-start.svg")
    assert whole < COLD_GOAL


def steps_of(spans: list[Span], begin: float, end: float) -> dict[str, tuple[float, float]]:
    """Return when each step began and ended, in seconds from the start of the command."""

    def of(what: str, process: str = "") -> list[Span]:
        return [one for one in spans if one.what == what and process in one.process]

    # The first of each: processes that the command starts may do the same.
    (imports, *_), (upgraded, *_), (registered, *_) = of("imports"), of("upgrade"), of("ensure_champion")
    (taken_in, *_), (brought_up, *_), (loaded, *_) = of("submit"), of("Stack._bring_up"), of("load_model")
    first_pass = next(one for one in spans if one.what in PASS)
    screened = next(one for one in of("Screener.screen") if one.begin < first_pass.begin < one.end)
    decoders, stopped = of("_Decoder.__init__"), of("Stack._stop")[-1]
    (worker, *_), (housekeeping, *_) = of("start", "worker.tasks"), of("start", "housekeeping")
    found = {
        "interpreter, imports": (begin, imports.end),
        "migration": (upgraded.begin, upgraded.end),
        "registration of the model": (registered.begin, registered.end),
        "ingest": (taken_in.begin, taken_in.end),
        "supervisord, broker": (brought_up.begin, worker.begin),
        "housekeeping: start to batches": (housekeeping.begin, of("dispatch")[0].end),
        "worker: imports, Celery": (worker.begin, loaded.begin),
        "worker: load the model": (loaded.begin, loaded.end),
        "worker: start decoders": (decoders[0].begin, max(one.end for one in decoders)),
        "worker: connect, wait for a batch": (loaded.end, screened.begin),
        "forward pass, commit": (screened.begin, screened.end),
        "notice, export": (screened.end, stopped.begin),
        "stop": (stopped.begin, end),
    }
    return {name: (first - begin, last - begin) for name, (first, last) in found.items()}


def draw(steps: dict[str, tuple[float, float]], file: Path) -> None:
    """Draw a bar from the beginning to the end of each step."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8.5, 4), layout="constrained")
    for place, (first, last) in enumerate(steps.values()):
        axes.barh(place, last - first, left=first)
        axes.annotate(f" {last - first:.2f} s", (last, place), va="center", fontsize="small")
    axes.set_yticks(range(len(steps)), list(steps))
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set(
        xlim=(0, None), xlabel="seconds from the start of the command", title="pneumoscreen screen one.dcm"
    )
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(file)
    pyplot.close(figure)
