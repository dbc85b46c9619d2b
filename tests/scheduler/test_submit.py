"""Submitting cohorts: again, interrupted, by several commands at once, from folders that fail."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from rich.console import Console
from sqlalchemy import update

from db.database_errors import DatabaseFailed
from db.engine import Database
from db.jobs.cohorts import CohortHasOtherModel, CohortUnknown, cancel, find_cohort, open_cohort
from db.jobs.images import NewImage
from db.jobs.ingests import CohortCancelled, begin_ingest
from db.models.registry import ModelUnknown, NoChampion, import_model
from db.queries.progress import progress
from db.tables import Image, Model
from scheduler.cli.watch import watch
from scheduler.dispatch import Sweeper
from scheduler.ingest.source import Source, SourceEmpty, SourceUnreadable
from scheduler.ingest.sources.folder import FolderSource
from scheduler.submit import default_cohort, submit
from worker.files.opener import Entry


def take_in(database: Database, folder: Path, **more: object) -> tuple[int, int]:
    done = submit(database, FolderSource(folder), name="trial", **more)  # type: ignore[arg-type]
    return done.found, done.new


@pytest.mark.usefixtures("model")
def test_a_second_submit_adds_nothing_and_a_later_one_what_is_new(
    database: Database, phantoms: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(phantoms, tmp_path / "phantoms")
    assert take_in(database, folder) == (10, 10)
    assert take_in(database, folder) == (10, 0)
    shutil.copy(folder / "jpeg" / "phantom-0000.jpeg", folder / "another.jpeg")
    assert take_in(database, folder) == (11, 1)
    with database.read() as session:
        assert progress(session)[0].total == 11


@pytest.mark.usefixtures("model")
def test_the_same_sop_instance_twice_is_screened_once(
    database: Database, phantoms: Path, tmp_path: Path
) -> None:
    for copy in ("a", "b"):
        shutil.copytree(phantoms / "dicom", tmp_path / "twice" / copy)
    assert take_in(database, tmp_path / "twice") == (8, 8)
    assert take_in(database, tmp_path / "twice") == (8, 0)
    with database.read() as session:
        now = progress(session)[0]
    assert (now.pending, now.problems) == (4, {"duplicate-instance": 4})


class Endless(Source):
    """A source of 99 images that interrupts its ingest, or cancels its cohort, at one of them."""

    described = "/data"

    def __init__(self, database: Database, *, cancel_at: int = 0, break_at: int = 0) -> None:
        self.database, self.cancel_at, self.break_at = database, cancel_at, break_at
        self.inspected: list[str] = []

    def entries(self) -> Iterator[Entry]:
        for number in range(1, 100):
            yield Entry(f"/data/{number}.png")

    def inspect(self, entry: Entry) -> NewImage:
        number = int(Path(entry.uri).stem)
        self.inspected.append(entry.uri)
        if number == self.break_at:
            raise KeyboardInterrupt
        if number == self.cancel_at:
            with self.database.write() as session:
                cancel(session, find_cohort(session, "trial"))
        return NewImage(uri=entry.uri)


@pytest.mark.usefixtures("model")
def test_an_interrupted_submit_goes_on_where_it_stopped(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PNEUMOSCREEN_INGEST_IMAGES", "10")
    with pytest.raises(KeyboardInterrupt):
        submit(database, Endless(database, break_at=35), name="trial")
    with database.read() as session:
        now = progress(session)[0]
    assert (now.total, now.finished, now.ingest_broke_off) == (30, False, True)
    source = Endless(database)
    again = submit(database, source, name="trial")
    assert (again.found, again.new) == (99, 69)
    assert len(source.inspected) == 69, "images that the cohort holds were opened again"


class Halting(Endless):
    """A source of 40 images that waits at the 21st until `go_on` is set."""

    def __init__(self, described: str) -> None:
        self.described = described
        self.half_way, self.go_on = threading.Event(), threading.Event()

    def entries(self) -> Iterator[Entry]:
        for number in range(40):
            yield Entry(f"{self.described}/{number}.png")

    def inspect(self, entry: Entry) -> NewImage:
        if Path(entry.uri).stem == "20":
            self.half_way.set()
            assert self.go_on.wait(60)
        return NewImage(uri=entry.uri)


@pytest.fixture
def by_tens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make each transaction of an ingest hold ten images."""
    monkeypatch.setenv("PNEUMOSCREEN_INGEST_IMAGES", "10")


@pytest.mark.usefixtures("model", "by_tens")
def test_a_feeder_that_ends_first_does_not_close_what_another_one_still_feeds(database: Database) -> None:
    slow = Halting("/slow")
    with ThreadPoolExecutor() as pool:
        feeding = pool.submit(submit, database, slow, name="trial")
        assert slow.half_way.wait(60)
        submit(database, Endless(database), name="trial")
        with database.read() as session:
            now = progress(session)[0]
        assert (now.state, now.finished, now.ingest_broke_off) == ("ingesting", False, False)
        slow.go_on.set()
        assert feeding.result().new == 40
    with database.read() as session:
        now = progress(session)[0]
    assert (now.state, now.total) == ("ready", 139)


@pytest.mark.usefixtures("model", "by_tens")
def test_the_same_source_submitted_twice_at_once_is_taken_in_by_the_later_command(database: Database) -> None:
    first, second = Halting("/data"), Halting("/data")
    second.go_on.set()
    with ThreadPoolExecutor() as pool:
        feeding = pool.submit(submit, database, first, name="trial")
        assert first.half_way.wait(60)
        done = submit(database, second, name="trial")
        first.go_on.set()
        stopped = feeding.result()
    assert (done.found, done.taken_over, stopped.taken_over) == (40, False, True)
    assert "Another command takes the same source in" in stopped.as_text()
    with database.read() as session:
        now = progress(session)[0]
    assert (now.state, now.total) == ("ready", 40)


@pytest.mark.usefixtures("model", "by_tens")
def test_a_feeder_keeps_its_lease_while_its_source_lets_it_wait(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.submit._LEASE_SECONDS", 1.0)
    slow = Halting("/slow")
    with ThreadPoolExecutor() as pool:
        feeding = pool.submit(submit, database, slow, name="trial")
        assert slow.half_way.wait(60)
        for _ in range(8):
            Sweeper(database).sweep()
            time.sleep(0.25)
        with database.read() as session:
            broke_off = progress(session)[0].ingest_broke_off
        slow.go_on.set()
        feeding.result()
    assert not broke_off


@pytest.mark.usefixtures("model")
def test_watch_ends_when_the_images_of_an_ingest_that_broke_off_have_ended(
    database: Database, by_tens: None
) -> None:
    with pytest.raises(KeyboardInterrupt):
        submit(database, Endless(database, break_at=35), name="trial")
    with database.write() as session:
        session.execute(update(Image).values(state="skipped", problem="not-chest"))
        cohort_id = find_cohort(session, "trial").id
    ended = watch(database, cohort_id, Console(stderr=True))
    assert (ended.finished, ended.ingest_broke_off, ended.skipped) == (False, True, 30)


@pytest.mark.usefixtures("model")
def test_no_ingest_breaks_off_right_after_the_job_table_was_unavailable(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database.write() as session:
        cohort = open_cohort(session, "trial", source="/data")
        begin_ingest(session, cohort.id, "/data", owner="host:1", lease_seconds=-1)
    sweeper = Sweeper(database)
    with monkeypatch.context() as patch:
        patch.setattr("scheduler.dispatch.expire_batches", Mock(side_effect=DatabaseFailed))
        with pytest.raises(DatabaseFailed):
            sweeper.sweep()
    sweeper.sweep()
    with database.read() as session:
        assert not progress(session)[0].ingest_broke_off
    Sweeper(database).sweep()
    with database.read() as session:
        assert progress(session)[0].ingest_broke_off


def cannot_be_listed(patch: pytest.MonkeyPatch, folder: Path, error: OSError) -> None:
    """Make a folder fail as on a disk or a share: to take away its rights would not stop root."""
    really = os.scandir

    def scandir(where: Any) -> Any:
        if os.fspath(where) == str(folder):
            error.filename = str(folder)
            raise error
        return really(where)

    patch.setattr(os, "scandir", scandir)


@pytest.mark.usefixtures("model")
def test_a_folder_that_fails_while_it_is_walked_breaks_off_and_the_same_command_goes_on(
    database: Database, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PNEUMOSCREEN_INGEST_IMAGES", "1")
    with monkeypatch.context() as patch:
        cannot_be_listed(patch, phantoms / "png", OSError(errno.ESTALE, os.strerror(errno.ESTALE)))
        with pytest.raises(SourceUnreadable, match="Stale file handle") as caught:
            take_in(database, phantoms)
    assert str(phantoms) not in str(caught.value)
    with database.read() as session:
        broken_off = progress(session)[0]
    assert (broken_off.state, broken_off.ingest_broke_off) == ("ingesting", True)
    assert 0 < broken_off.total < 10
    assert take_in(database, phantoms) == (10, 10 - broken_off.total)
    with database.read() as session:
        assert progress(session)[0].state == "ready"


@pytest.mark.usefixtures("model")
def test_folders_that_may_not_be_read_are_counted_and_reported(
    database: Database, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    denied = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    with monkeypatch.context() as patch:
        cannot_be_listed(patch, phantoms / "png", denied)
        submitted = submit(database, FolderSource(phantoms), name="trial")
    assert (submitted.found, submitted.closed_folders) == (6, 1)
    assert "Folders that may not be read: 1." in submitted.as_text()
    with monkeypatch.context() as patch:
        cannot_be_listed(patch, phantoms, denied)
        with pytest.raises(SourceUnreadable):
            take_in(database, phantoms)


@pytest.mark.usefixtures("model")
def test_a_cohort_cancelled_while_it_is_taken_in_stays_cancelled(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PNEUMOSCREEN_INGEST_IMAGES", "10")
    with pytest.raises(CohortCancelled):
        submit(database, Endless(database, cancel_at=35), name="trial")
    with database.read() as session:
        now = progress(session)[0]
    assert (now.state, now.pending, now.problems, now.finished) == ("cancelled", 0, {"cancelled": 30}, True)


@pytest.mark.usefixtures("model")
def test_an_empty_source_leaves_no_cohort_behind(database: Database, tmp_path: Path) -> None:
    with pytest.raises(SourceEmpty):
        take_in(database, tmp_path)
    with pytest.raises(CohortUnknown), database.read() as session:
        find_cohort(session, "trial")


def test_nothing_is_taken_in_without_a_champion(database: Database, phantoms: Path) -> None:
    with pytest.raises(NoChampion):
        take_in(database, phantoms)


def test_a_cohort_keeps_the_model_it_was_submitted_with(
    database: Database, model: Model, phantoms: Path, other_artefact: Path
) -> None:
    other = import_model(database, other_artefact)
    with pytest.raises(ModelUnknown):
        take_in(database, phantoms, model="resnet50-ffffffffffff")
    take_in(database, phantoms, model=other.name)
    take_in(database, phantoms)
    with database.read() as session:
        assert find_cohort(session, "trial").model_id == other.id
    with pytest.raises(CohortHasOtherModel):
        take_in(database, phantoms, model=model.name)


def test_the_default_name_tells_sources_apart_and_stays_the_same(tmp_path: Path) -> None:
    for name in ("a/x", "b/x"):
        (tmp_path / name).mkdir(parents=True)
    one, again, other = (FolderSource(tmp_path / where) for where in ("a/x", "a/../a/x", "b/x"))
    assert default_cohort(one) == default_cohort(again)
    assert default_cohort(one) != default_cohort(other)
    assert one.path.name not in default_cohort(one), "a folder may be named after a patient"
