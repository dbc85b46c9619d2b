"""Killed and concurrent submits: every image is taken in once."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import func, select

from db.engine import Database
from db.states import CohortState
from db.tables import Cohort, Image
from scheduler.ingest import open_source
from scheduler.submit import submit
from tests.faults.invariant import check
from tests.faults.system import TIMES

IMAGES = 600


@pytest.mark.usefixtures("model")
def test_a_submit_that_is_killed_and_run_again_takes_every_image_in_once(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "x-rays"
    folder.mkdir()
    for number in range(IMAGES):
        (folder / f"{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    url = database.engine.url.render_as_string(hide_password=False)
    monkeypatch.setenv("PNEUMOSCREEN_DATABASE_URL", url)
    monkeypatch.setenv("PNEUMOSCREEN_INGEST_IMAGES", "5")
    draw, cut_short = random.Random(7), 0
    for _ in range(TIMES // 2):
        before = count(database)
        command = [sys.executable, "-m", "scheduler", "submit", str(folder), "--cohort", "trial"]
        scheduler = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while count(database) == before and scheduler.poll() is None:
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.1))
        scheduler.send_signal(signal.SIGKILL)
        scheduler.wait()
        cut_short += count(database) < IMAGES
        check(database)
    assert cut_short, "no submit was killed before its end"
    taken = submit(database, open_source(str(folder)), name="trial")
    assert taken.found == count(database) == IMAGES
    with database.read() as session:
        assert session.scalars(select(Cohort.state)).all() == [CohortState.READY]
        uris = select(func.count(Image.uri.distinct()))
        assert session.scalars(uris).one() == IMAGES
    check(database)


@pytest.mark.usefixtures("model")
def test_two_concurrent_first_submits_of_one_cohort_are_both_complete(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = database.engine.url.render_as_string(hide_password=False)
    monkeypatch.setenv("PNEUMOSCREEN_DATABASE_URL", url)
    monkeypatch.setenv("PNEUMOSCREEN_INGEST_IMAGES", "1")
    feeders = []
    for name, images in (("short", 5), ("long", 300)):
        folder = tmp_path / name
        folder.mkdir()
        for number in range(images):
            (folder / f"{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
        command = [sys.executable, "-m", "scheduler", "submit", str(folder), "--cohort", "trial"]
        feeders.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))
    for feeder in feeders:
        _, told = feeder.communicate(timeout=240)
        assert feeder.returncode == 0, told.decode()
        check(database)
    assert count(database) == 305
    with database.read() as session:
        assert session.scalars(select(Cohort.state)).all() == [CohortState.READY]


def count(database: Database) -> int:
    with database.read() as session:
        return session.scalars(select(func.count()).select_from(Image)).one()
