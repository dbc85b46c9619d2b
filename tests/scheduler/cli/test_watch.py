"""The progress of a cohort and the count of a source's files, as lines for people."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from sqlalchemy import update

from db.engine import Database
from db.queries.progress import Progress, progress
from db.tables import Image
from scheduler.cli.study.counting import counting
from scheduler.cli.system.running import LOADING
from scheduler.cli.watch import parts_of, watch
from scheduler.ingest.sources.folder import FolderSource
from scheduler.submit import Hooks, submit


def read(database: Database) -> Progress:
    with database.read() as session:
        return progress(session, ["trial"])[0]


def said(now: Progress, rate: float = 0.0) -> str:
    return ", ".join(part.text for part in parts_of(now, rate, LOADING))


@pytest.mark.usefixtures("model")
def test_a_cohort_waits_for_its_model_until_the_first_image_is_screened(
    database: Database, phantoms: Path
) -> None:
    submit(database, FolderSource(phantoms), name="trial")
    now = read(database)
    assert said(now) == "0/10 images, loading the model ..."
    assert said(replace(now, pending=0, running=10)) == "0/10 images"
    assert said(replace(now, waits_for="source-away")) == "0/10 images, waits: source-away"
    later = replace(now, pending=7, done=2, failed=1)
    assert said(later, 0.5) == "3/10 images, 0.5 images/s, 0:00:14 left, 2 done, 1 failed"


@pytest.mark.usefixtures("model")
def test_watch_leaves_its_last_state_in_a_file(database: Database, phantoms: Path) -> None:
    cohort_id = submit(database, FolderSource(phantoms), name="trial").cohort_id
    with database.write() as session:
        session.execute(update(Image).values(state="skipped", problem="not-chest"))
    file = io.StringIO()
    watch(database, cohort_id, Console(file=file))
    (line,) = file.getvalue().splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d \S+  10/10 images, 10 skipped", line)


@pytest.mark.usefixtures("model")
def test_files_are_counted_while_they_are_listed(database: Database, phantoms: Path) -> None:
    file = io.StringIO()
    with counting(Console(file=file, force_terminal=True, width=60)) as count:
        submitted = submit(database, FolderSource(phantoms), name="trial", hooks=Hooks(known=(count,)))
    assert submitted.new == 10
    assert "10 files listed ..." in file.getvalue()
