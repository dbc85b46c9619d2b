"""The intake of a nightly run: interrupted, cancelled, from sources that fail, beside other runs."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from db.engine import Database
from db.jobs.cohorts import cancel, find_cohort
from db.lease import Lease
from db.nights.runs import attach, claim_night, conclude_nights, find_night, finish_reading, now
from db.states import NightState
from db.tables import Cohort, Image, Ingest, NightlyRun
from scheduler.ingest.sources.folder import FolderSource
from scheduler.nightly.conclusion import conclude
from scheduler.nightly.intake import walk_night
from scheduler.nightly.schedule import Nightly
from scheduler.nightly.slots import notify_nights, run_now
from scheduler.submit import submit
from tests.notifiers import ListNotifier
from tests.scheduler.nightly.nights import end, finish, screen, settings, taken_in, walk
from tests.scheduler.test_submit import cannot_be_listed


def test_only_what_is_new_is_taken_in(with_champion: Database, ward: Nightly, folder: Path) -> None:
    first = run_now(with_champion, ward)
    assert walk_night(with_champion, settings(ward), first)
    assert not walk_night(with_champion, settings(ward), first), "a second message walked it again"
    (folder / "3.png").write_bytes(b"new")
    second, third = run_now(with_champion, ward), run_now(with_champion, ward)
    walk_night(with_champion, settings(ward), second)
    with with_champion.read() as session:
        counts = dict(
            session.execute(
                select(Cohort.name, func.count())
                .join(Image, Image.cohort_id == Cohort.id)
                .group_by(Cohort.name)
            ).all()
        )
        assert sorted(counts.values()) == [1, 3]
    walk_night(with_champion, settings(ward), third)
    with with_champion.read() as session:
        assert find_night(session, third).state is NightState.SCREENING
        assert session.scalars(select(func.count()).select_from(Image)).one() == 4


def test_a_walk_that_was_killed_goes_on(with_champion: Database, ward: Nightly) -> None:
    run_id = run_now(with_champion, ward)
    walk_night(with_champion, settings(ward), run_id)
    with with_champion.write() as session:
        # The state that a worker leaves which is killed after the last image and before the run's end.
        session.execute(
            update(NightlyRun).values(state=NightState.INGESTING, lease_until=1.0, cohort_id=None)
        )
        session.execute(update(Cohort).values(state="ingesting"))
        session.execute(update(Ingest).values(state="broken-off"))
    notified: list[int] = []
    assert notify_nights(with_champion, settings(ward), ListNotifier(notified)) == 1
    assert notified == [run_id]
    assert walk_night(with_champion, settings(ward), run_id)
    with with_champion.read() as session:
        run = find_night(session, run_id)
        assert run.state is NightState.SCREENING
        assert run.cohort_id is not None
        assert session.scalars(select(Cohort.state)).one() == "ready"
        assert session.scalars(select(func.count()).select_from(Image)).one() == 3


def test_a_night_whose_cohort_is_cancelled_while_it_is_walked_stays_cancelled(
    with_champion: Database, ward: Nightly, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PNEUMOSCREEN_INGEST_IMAGES", "1")
    run_id = run_now(with_champion, ward)

    def then_cancel(session: Session, cohort: Cohort, run: NightlyRun) -> None:
        attach(session, cohort, run)
        cancel(session, cohort)

    monkeypatch.setattr("scheduler.nightly.intake.attach", then_cancel)
    assert walk_night(with_champion, settings(ward), run_id)
    with with_champion.write() as session:
        assert find_night(session, run_id).state is NightState.SCREENING
        assert conclude_nights(session) == [run_id]
        assert session.scalars(select(Cohort.state)).one() == "cancelled"


def test_an_unavailable_source_is_tried_until_the_window_ends(with_champion: Database, ward: Nightly) -> None:
    gone = ward.model_copy(update={"source": "/gone"})
    run_id = run_now(with_champion, gone)
    walk_night(with_champion, settings(gone), run_id)
    with with_champion.read() as session:
        run = find_night(session, run_id)
        assert (run.state, run.problem) == (NightState.WAITING, "source-missing")
    assert notify_nights(with_champion, settings(gone), ListNotifier([])) == 0, "it was tried again at once"
    with with_champion.write() as session:
        session.execute(update(NightlyRun).values(window_ends=1.0))
    walk_night(with_champion, settings(gone), run_id)
    with with_champion.read() as session:
        assert find_night(session, run_id).state is NightState.FAILED
    assert conclude(with_champion) == [run_id]


def test_images_that_were_taken_in_before_the_source_failed_are_screened_and_counted(
    with_champion: Database, ward: Nightly, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "later").mkdir()
    (folder / "later" / "3.png").write_bytes(b"not reached at first")
    run_id = run_now(with_champion, ward)
    with monkeypatch.context() as patch:
        cannot_be_listed(patch, folder / "later", OSError(errno.ESTALE, os.strerror(errno.ESTALE)))
        walk_night(with_champion, settings(ward), run_id)
        with with_champion.write() as session:
            assert find_night(session, run_id).state is NightState.WAITING
            session.execute(update(NightlyRun).values(window_ends=1.0))
        walk_night(with_champion, settings(ward), run_id)
    with with_champion.write() as session:
        run = find_night(session, run_id)
        assert (run.state, run.problem) == (NightState.FAILED, "source-unreadable")
        assert session.get_one(Cohort, run.cohort_id).state == "ready", "the cohort is still open"
        assert conclude_nights(session) == [run_id]
    assert taken_in(with_champion, run_id) == ["0.png", "1.png", "2.png"]
    figures = end(with_champion, ward, run_id)
    assert (figures["new"], figures["left"]) == (3, 3)
    later = walk(with_champion, ward)
    assert taken_in(with_champion, later) == ["3.png"]
    finish(with_champion, run_id, [0.9, 0.9, 0.9])
    screen(with_champion, later, [0.1])
    figures = end(with_champion, ward, later)
    assert (figures["new"], figures["done"], figures["earlier"]["done"]) == (1, 1, 3)


def test_two_schedules_whose_cohorts_have_one_name_do_not_share_it(
    with_champion: Database, ward: Nightly
) -> None:
    one, other = (ward.model_copy(update={"name": name, "cohort": "{date}"}) for name in ("a", "b"))
    runs = [walk(with_champion, one), walk(with_champion, other)]
    assert [len(taken_in(with_champion, run_id)) for run_id in runs] == [3, 3]
    again = walk(with_champion, one)
    with with_champion.read() as session:
        assert find_night(session, again).cohort_id is None, "files that it had taken in were new to it again"


def test_a_run_does_not_use_a_submitted_cohort_of_the_same_name(
    with_champion: Database, ward: Nightly, phantoms: Path
) -> None:
    with with_champion.read() as session:
        name = ward.cohort_name(now(session))
    submit(with_champion, FolderSource(phantoms), name=name)
    run_id = walk(with_champion, ward)
    assert len(taken_in(with_champion, run_id)) == 3
    with with_champion.read() as session:
        assert find_cohort(session, name).nightly is None


def test_only_one_of_two_runs_of_a_schedule_walks_at_a_time(with_champion: Database, ward: Nightly) -> None:
    first, second = run_now(with_champion, ward), run_now(with_champion, ward)
    with with_champion.write() as session:
        lease = claim_night(session, first, lease_seconds=60)
        assert lease is not None
    assert not walk_night(with_champion, settings(ward), second), "both would take in the same files"
    with with_champion.write() as session:
        finish_reading(session, lease, cohort_id=None)
    assert walk_night(with_champion, settings(ward), second)
    assert len(taken_in(with_champion, second)) == 3


def test_two_runs_that_are_claimed_at_once_do_not_walk_together(
    with_champion: Database, ward: Nightly
) -> None:
    runs = [run_now(with_champion, ward) for _ in range(4)]
    together = threading.Barrier(4)
    leases: list[Lease] = []

    def claim(run_id: int) -> None:
        together.wait()
        with with_champion.write() as session:
            if lease := claim_night(session, run_id, lease_seconds=60):
                leases.append(lease)

    claims = [threading.Thread(target=claim, args=(run_id,)) for run_id in runs]
    for one in claims:
        one.start()
    for one in claims:
        one.join()
    assert len(leases) == 1
