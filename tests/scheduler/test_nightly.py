"""Nightly screening: slots, windows, new files, summaries."""

from __future__ import annotations

import datetime as dt
import errno
import json
import os
import shutil
import socket
import threading
from collections import Counter
from email import message_from_bytes
from email.policy import default
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import FileIO
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from db.engine import Database
from db.jobs.batches import cohorts_to_dispatch
from db.jobs.cohorts import cancel, find_cohort
from db.jobs.problems import FileUnreadable
from db.lease import Lease
from db.models.registry import ensure_champion
from db.nights.runs import attach, claim_night, conclude_nights, find_night, finish_reading, history, now
from db.settings import SettingsInvalid
from db.states import ImageState, NightState
from db.tables import Batch, Cohort, Image, Ingest, Model, NightlyRun, Prediction
from scheduler.exports.archive import prune
from scheduler.exports.noted_heads import noted_heads, sealed_head
from scheduler.ingest.sources.folder import FolderSource
from scheduler.nightly.delivery import SendSettings, send
from scheduler.nightly.intake import walk_night
from scheduler.nightly.schedule import Nightly, NightlySettings
from scheduler.nightly.slots import notify_nights, open_due, open_slots, run_now
from scheduler.nightly.summary import conclude, summarise
from scheduler.submit import submit
from tests.notifiers import ListNotifier
from tests.scheduler.test_submit import cannot_be_listed
from worker.files.openers.file import open_file
from worker.files.roots import Roots

DAY = 86_400.0
MADRID = Nightly(name="ward", source="/x", cron="30 2 * * *", time_zone="Europe/Madrid", until=dt.time(7))


def moment(text: str) -> float:
    return dt.datetime.fromisoformat(text).replace(tzinfo=ZoneInfo("Europe/Madrid")).timestamp()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = tmp_path / "ward"
    source.mkdir()
    for number in range(3):
        (source / f"{number}.png").write_bytes(b"not looked at before it is screened")
    return source


@pytest.fixture
def ward(folder: Path) -> Nightly:
    return Nightly(name="ward", source=str(folder))


@pytest.fixture
def with_champion(database: Database, home: Path, artefact: Path) -> Database:
    ensure_champion(database, artefact)
    return database


def settings(*schedules: Nightly) -> NightlySettings:
    return NightlySettings(nightly=schedules, nightly_retry_seconds=300)


@pytest.mark.parametrize(
    "database_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.long)], indirect=True
)
def test_a_year_has_one_run_a_night_whatever_the_clocks_and_the_beats_do(database: Database) -> None:
    now, end = moment("2026-01-01T12:00"), moment("2027-01-01T12:00")
    missed = moment("2026-06-10T20:00"), moment("2026-06-13T20:00")
    jumps = iter([moment("2026-03-29T12:00"), moment("2026-10-25T12:00")])
    jump = next(jumps)
    while now < end:
        if not missed[0] <= now < missed[1]:
            for _ in range(2):  # two beats at one tick
                open_slots(database, (MADRID,), now)
        if now > jump:  # the clock goes back for an hour, and forward again
            jump = next(jumps, end)
            open_slots(database, (MADRID,), now - 3600)
        now += 4 * 3600
    with database.read() as session:
        slots = [run.slot for run in history(session, limit=1000)]
    nights = Counter(dt.datetime.fromtimestamp(slot, MADRID.zone).date() for slot in slots)
    assert set(nights.values()) == {1}
    # Only the last of three missed nights is made up for, and it takes in everything that is new.
    assert len(nights) == 365 - 2
    assert dt.date(2026, 6, 11) not in nights
    assert dt.date(2026, 6, 13) in nights
    # 02:30 does not exist on the day when clocks go forward: the run is due when the gap ends.
    (spring,) = [s for s in slots if dt.datetime.fromtimestamp(s, MADRID.zone).date() == dt.date(2026, 3, 29)]
    assert spring == moment("2026-03-29T03:00")


def test_a_schedule_begins_with_the_first_slot_after_it_was_made(database: Database) -> None:
    assert open_slots(database, (MADRID,), moment("2026-05-01T12:00")) == []
    assert open_slots(database, (MADRID,), moment("2026-04-30T12:00")) == []
    assert len(open_slots(database, (MADRID,), moment("2026-05-02T02:30"))) == 1


def test_two_beats_at_once_open_one_run(database: Database) -> None:
    open_slots(database, (MADRID,), moment("2026-05-01T12:00"))
    together = threading.Barrier(8)
    opened: list[int] = []

    def beat() -> None:
        together.wait()
        opened.extend(open_slots(database, (MADRID,), moment("2026-05-02T03:00")))

    beats = [threading.Thread(target=beat) for _ in range(8)]
    for one in beats:
        one.start()
    for one in beats:
        one.join()
    assert len(opened) == 1


def test_windows_end_in_the_morning() -> None:
    late = MADRID.model_copy(update={"cron": "0 22 * * *"})
    assert late.window_end(moment("2026-05-01T22:00")) == moment("2026-05-02T07:00")
    assert MADRID.window_end(moment("2026-10-25T02:30")) == moment("2026-10-25T07:00")
    assert MADRID.cohort_name(moment("2026-05-01T22:00")) == "ward-2026-05-01"


@pytest.mark.parametrize(
    "wrong",
    [
        'cron = "61 * * * *"',
        'cron = "0 0 30 2 *"',
        'time_zone = "Mars/Base"',
        'cohort = "{name}"',
        'cohort = "{date}\\u001b[31m"',
        "priority = 3000000000",
        "x = 1",
    ],
)
def test_a_schedule_that_cannot_be_used_is_refused_by_name(home: Path, wrong: str) -> None:
    (home / "pneumoscreen.toml").write_text(f'[[nightly]]\nname = "ward"\nsource = "/x"\n{wrong}\n')
    with pytest.raises(SettingsInvalid, match="PNEUMOSCREEN_NIGHTLY"):
        NightlySettings.read()


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


def test_a_window_that_has_ended_holds_the_rest_until_the_next_night(
    with_champion: Database, ward: Nightly
) -> None:
    windowed = ward.model_copy(update={"until": dt.time(7)})
    open_slots(with_champion, (windowed,), moment("2026-05-01T12:00"))
    (run_id,) = open_slots(with_champion, (windowed,), moment("2026-05-02T23:00"))
    walk_night(with_champion, settings(windowed), run_id)
    with with_champion.write() as session:
        assert cohorts_to_dispatch(session) == [], "the window is long over"
        assert conclude_nights(session) == [run_id]
        assert find_night(session, run_id).state is NightState.HELD
    future = dt.datetime.now(dt.UTC).timestamp() + 10 * DAY
    (later,) = open_slots(with_champion, (windowed,), future)
    with with_champion.read() as session:
        assert len(cohorts_to_dispatch(session)) == 1, "the next night does not continue it"
    with with_champion.write() as session:
        session.execute(update(Image).values(state=ImageState.SKIPPED, problem="duplicate-instance"))
        conclude_nights(session)
        assert find_night(session, run_id).state is NightState.DONE
        assert find_night(session, later).state is NightState.WAITING


def screen(database: Database, run_id: int, probabilities: list[float]) -> None:
    """Write the rows that workers would write, and end the run."""
    finish(database, run_id, probabilities)
    with database.write() as session:
        assert conclude_nights(session) == [run_id]


def finish(database: Database, run_id: int, probabilities: list[float]) -> None:
    """Write the rows that workers would write: predictions for the first images, failures for the rest."""
    with database.write() as session:
        run = find_night(session, run_id)
        # The batch took two seconds, the run took a minute, and both end now.
        if run.finished_at is None:
            run.created_at -= 60
        ended = now(session)
        model_id = session.scalars(select(Model.id)).one()
        batch = Batch(
            cohort_id=run.cohort_id, model_id=model_id, state="done", size=len(probabilities),
            created_at=ended - 2, finished_at=ended,
        )  # fmt: skip
        session.add(batch)
        session.flush()
        images = session.scalars(
            select(Image).where(Image.cohort_id == run.cohort_id).order_by(Image.id)
        ).all()
        for image, probability in zip(images, probabilities, strict=False):
            image.state, image.batch_id = ImageState.DONE, batch.id
            session.add(
                Prediction(
                    image_id=image.id, model_id=model_id, probability=probability, threshold=0.5,
                    label="PNEUMONIA" if probability >= 0.5 else "NORMAL", precision="fp32", runtime="r",
                    preprocessing="p", software="s", input_digest="0" * 64,
                )
            )  # fmt: skip
        for image in images[len(probabilities) :]:
            image.state, image.problem, image.batch_id = ImageState.FAILED, "corrupt-image", batch.id


def test_the_summary_holds_the_figures_of_the_night(
    with_champion: Database, ward: Nightly, home: Path, folder: Path
) -> None:
    run_id = run_now(with_champion, ward)
    walk_night(with_champion, settings(ward), run_id)
    screen(with_champion, run_id, [0.97, 0.2])
    audit_head = sealed_head(with_champion)
    summarise(with_champion, settings(ward), run_id)
    noted = [noted_heads(file) for file in (home / "nightly").iterdir()]
    assert noted == [{audit_head}] * 3, "in the page, the text and the figures"
    with with_champion.write() as session:  # the night before
        session.execute(update(NightlyRun).values(created_at=0, finished_at=1))
        session.execute(update(Batch).values(finished_at=1))
    with with_champion.read() as session:
        figures = find_night(session, run_id).summary
    assert figures is not None
    assert (figures["new"], figures["done"], figures["positive"], figures["left"]) == (3, 2, 1, 0)
    assert figures["failed"] == {"corrupt-image": 1}
    assert figures["bands"] == [0] * 9 + [1]
    assert figures["images_per_second"] == pytest.approx(1.0)
    text = next((home / "nightly").glob("*.txt")).read_text()
    page = next((home / "nightly").glob("*.html")).read_text()
    for content in (text, page):
        assert "corrupt-image" in content
        assert "Not a diagnosis" in content
        assert str(folder) not in content
    assert conclude(with_champion) == [], "it would be summarised twice"
    (folder / "new.png").write_bytes(b"x")
    later = run_now(with_champion, ward)
    walk_night(with_champion, settings(ward), later)
    screen(with_champion, later, [0.1])
    summarise(with_champion, settings(ward), later)
    text = sorted((home / "nightly").glob("*.txt"))[-1].read_text()
    assert "screened 1 (median of the last 1 nights 2)" in text


def walk(database: Database, schedule: Nightly) -> int:
    """Walk a schedule's source once and return the run."""
    run_id = run_now(database, schedule)
    assert walk_night(database, settings(schedule), run_id)
    return run_id


def end(database: Database, schedule: Nightly, run_id: int) -> dict[str, Any]:
    """Write a run's summary, check that its figures add up, and return them."""
    summarise(database, settings(schedule), run_id)
    with database.read() as session:
        figures = find_night(session, run_id).summary
    assert figures is not None
    ended = figures["done"] + sum(figures["skipped"].values()) + sum(figures["failed"].values())
    assert figures["new"] == ended + figures["left"]
    return figures


def taken_in(database: Database, run_id: int) -> list[str]:
    """Return the names of the files that a run took in."""
    with database.read() as session:
        cohort_id = find_night(session, run_id).cohort_id
        uris = session.scalars(select(Image.uri).where(Image.cohort_id == cohort_id).order_by(Image.id))
        return [Path(uri).name for uri in uris]


def test_a_second_slot_of_a_day_reports_its_own_images_alone(
    with_champion: Database, ward: Nightly, folder: Path
) -> None:
    evening = walk(with_champion, ward)
    screen(with_champion, evening, [0.9, 0.8, 0.1])
    first = end(with_champion, ward, evening)
    assert (first["new"], first["done"], first["positive"]) == (3, 3, 2)
    for number in range(3, 6):
        (folder / f"{number}.png").write_bytes(b"new")
    night = walk(with_champion, ward)
    screen(with_champion, night, [])
    second = end(with_champion, ward, night)
    assert (second["new"], second["done"], second["failed"]) == (3, 0, {"corrupt-image": 3})
    assert (second["positive"], second["earlier"]["done"]) == (0, 0)
    with with_champion.read() as session:
        names = session.scalars(select(Cohort.name).order_by(Cohort.id)).all()
    assert names[1] == f"{names[0]}-2"


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


def test_images_that_a_night_leaves_are_counted_once_in_the_night_that_screens_them(
    with_champion: Database, ward: Nightly, folder: Path
) -> None:
    first = walk(with_champion, ward)
    with with_champion.write() as session:
        session.execute(update(NightlyRun).values(window_ends=now(session)))
        assert conclude_nights(session) == [first]
    held = end(with_champion, ward, first)
    assert (held["new"], held["done"], held["left"]) == (3, 0, 3)
    (folder / "3.png").write_bytes(b"new")
    second = walk(with_champion, ward)
    # What the first night had left is screened in the second one.
    finish(with_champion, first, [0.9, 0.2])
    finish(with_champion, second, [0.8])
    with with_champion.write() as session:
        assert conclude_nights(session) == [second]
    figures = end(with_champion, ward, second)
    assert (figures["new"], figures["done"], figures["left"]) == (1, 1, 0)
    assert figures["earlier"] == {"done": 2, "skipped": {}, "failed": {"corrupt-image": 1}, "left": 0}
    assert (figures["positive"], len(figures["most_probable"])) == (2, 2)
    (folder / "4.png").write_bytes(b"new")
    third = walk(with_champion, ward)
    screen(with_champion, third, [0.1])
    assert end(with_champion, ward, third)["earlier"] == {"done": 0, "skipped": {}, "failed": {}, "left": 0}


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


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the names of the files that are opened."""
    names: list[str] = []

    def noted(path: Path, roots: Roots) -> FileIO:
        names.append(path.name)
        return open_file(path, roots)

    monkeypatch.setattr("scheduler.ingest.sources.folder.open_file", noted)
    return names


def test_a_night_without_new_files_opens_nothing(
    with_champion: Database, ward: Nightly, folder: Path, opened: list[str]
) -> None:
    (folder / "report.pdf").write_bytes(b"%PDF")
    (folder / "IM0001").write_bytes(b"a file without a suffix that is not DICOM")
    (folder / ".DS_Store").touch()
    first = walk(with_champion, ward)
    assert sorted(opened) == ["0.png", "1.png", "2.png", "IM0001", "report.pdf"]
    screen(with_champion, first, [0.1, 0.1, 0.1])
    opened.clear()
    walk(with_champion, ward)
    assert opened == []
    prune(with_champion, folder.parent / "archive", days=-1)
    walk(with_champion, ward)
    assert opened == [], "after archiving, files of the cohort were opened again"


def test_a_file_that_was_no_image_is_looked_at_again_once_it_has_changed(
    with_champion: Database, ward: Nightly, folder: Path, phantoms: Path, opened: list[str]
) -> None:
    (folder / "IM0001").write_bytes(b"half a preamble")
    walk(with_champion, ward)
    opened.clear()
    shutil.copy(next((phantoms / "dicom").rglob("IM0001")), folder / "IM0001")
    assert taken_in(with_champion, walk(with_champion, ward)) == ["IM0001"]
    assert opened == ["IM0001"]


def test_a_file_that_could_not_be_read_is_tried_again_the_next_night(
    with_champion: Database, ward: Nightly, folder: Path, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(next((phantoms / "dicom").rglob("IM0001")), folder / "IM0001")
    with monkeypatch.context() as patch:

        def failing(path: Path, roots: Roots) -> FileIO:
            if path.name == "IM0001":
                raise FileUnreadable
            return open_file(path, roots)

        patch.setattr("scheduler.ingest.sources.folder.open_file", failing)
        assert "IM0001" not in taken_in(with_champion, walk(with_champion, ward))
    assert taken_in(with_champion, walk(with_champion, ward)) == ["IM0001"]


@pytest.mark.parametrize("archived", [False, True])
def test_a_file_that_changed_since_it_was_taken_in_is_new(
    with_champion: Database, ward: Nightly, folder: Path, archived: bool
) -> None:
    first = walk(with_champion, ward)
    screen(with_champion, first, [0.1, 0.1])  # 2.png was half copied, and failed
    end(with_champion, ward, first)
    if archived:
        prune(with_champion, folder.parent / "archive", days=-1)
    (folder / "2.png").write_bytes(b"and now the whole of it: not looked at before it is screened")
    status = (folder / "0.png").stat()
    (folder / "0.png").write_bytes((folder / "0.png").read_bytes()[::-1])  # other bytes, of the same number
    os.utime(folder / "0.png", (status.st_atime, status.st_mtime + 5))
    second = walk(with_champion, ward)
    assert taken_in(with_champion, second) == ["0.png", "2.png"]
    screen(with_champion, second, [0.9, 0.9])
    figures = end(with_champion, ward, second)
    assert (figures["new"], figures["done"], figures["failed"]) == (2, 2, {})
    third = walk(with_champion, ward)
    assert taken_in(with_champion, third) == []


class Inbox:
    """A mail server that keeps its messages, with enough of RFC 5321 for one at a time."""

    def __init__(self, *, refuse: int = 0) -> None:
        """Refuse the first `refuse` messages."""
        self.refuse, self.messages = refuse, 0
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.message = b""
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self.socket.accept()
            self._take(connection)

    def _take(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rwb") as file:

            def say(line: bytes) -> None:
                file.write(line + b"\r\n")
                file.flush()

            say(b"220 inbox")
            while line := file.readline():
                command = line[:4].upper()
                if command == b"DATA":
                    say(b"354 go on")
                    while (part := file.readline()) != b".\r\n":
                        self.message += part
                    self.messages += 1
                    if self.messages <= self.refuse:
                        say(b"451 later")
                        continue
                say(b"250 inbox" if command != b"QUIT" else b"221 bye")


class Hook(BaseHTTPRequestHandler):
    """A webhook that fails for the first `refuse` requests."""

    got: list[bytes] = []  # noqa: RUF012  (one per test run)
    refuse = 1

    def do_POST(self) -> None:
        self.got.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(500 if len(self.got) <= self.refuse else 204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def receive(monkeypatch: pytest.MonkeyPatch, *, refuse: int = 0) -> tuple[Inbox, HTTPServer]:
    """Have summaries sent to a webhook, and to a mail server that refuses the first `refuse` messages."""
    Hook.got.clear()
    inbox, hook = Inbox(refuse=refuse), HTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=hook.serve_forever, daemon=True).start()
    for name, value in {
        "SMTP_HOST": "127.0.0.1", "SMTP_PORT": inbox.port, "SMTP_SECURITY": "none",
        "MAIL_TO": '["radiology@example.org"]', "WEBHOOK_URL": f"http://127.0.0.1:{hook.server_port}/x",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"PNEUMOSCREEN_{name}", str(value))
    return inbox, hook


def test_the_summary_is_sent_and_is_sent_again_if_that_failed(
    with_champion: Database, ward: Nightly, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox, hook = receive(monkeypatch)
    assert SendSettings.read().mail_to == ("radiology@example.org",)
    run_id = run_now(with_champion, ward)
    walk_night(with_champion, settings(ward), run_id)
    screen(with_champion, run_id, [0.9, 0.1, 0.3])
    summarise(with_champion, settings(ward), run_id)
    mail = message_from_bytes(inbox.message, policy=default)
    assert "ward" in mail["Subject"]
    assert {part.get_content_type() for part in mail.walk()} >= {"text/plain", "text/html"}
    assert conclude(with_champion) == [], "another process holds the lease"
    with with_champion.write() as session:
        session.execute(update(NightlyRun).values(lease_until=1.0))
    assert conclude(with_champion) == [run_id]
    monkeypatch.delenv("PNEUMOSCREEN_SMTP_HOST")
    summarise(with_champion, settings(ward), run_id)
    hook.shutdown()
    assert json.loads(Hook.got[-1])["done"] == 3
    assert "audit_head" in json.loads(Hook.got[-1])
    assert conclude(with_champion) == []


def test_a_webhook_that_redirects_has_failed_and_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Elsewhere(Hook):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def do_POST(self) -> None:
            self.send_response(302)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

    hook = HTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=hook.serve_forever, daemon=True).start()
    monkeypatch.setenv("PNEUMOSCREEN_WEBHOOK_URL", f"http://127.0.0.1:{hook.server_port}/x")
    assert send(SendSettings.read(), "s", "t", "h", {"done": 3}) == {"webhook": False}
    hook.shutdown()
    hook.server_close()
    assert asked == []


@pytest.mark.parametrize(("mail", "webhook"), [(0, 2), (2, 0)])
def test_a_delivered_mail_or_webhook_is_not_sent_again_while_the_other_one_fails(
    mail: int, webhook: int, with_champion: Database, ward: Nightly, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hook, "refuse", webhook)
    inbox, hook = receive(monkeypatch, refuse=mail)
    run_id = run_now(with_champion, ward)
    walk_night(with_champion, settings(ward), run_id)
    screen(with_champion, run_id, [0.9, 0.1, 0.3])
    tries = 0
    while run_id in conclude(with_champion):
        summarise(with_champion, settings(ward), run_id)
        tries += 1
        with with_champion.write() as session:
            session.execute(update(NightlyRun).values(lease_until=1.0))
    hook.shutdown()
    assert tries == 3
    assert (inbox.messages, len(Hook.got)) == (mail + 1, webhook + 1)


def test_due_slots_are_those_of_the_databases_clock(with_champion: Database, ward: Nightly) -> None:
    every_minute = ward.model_copy(update={"cron": "* * * * *"})
    assert open_due(with_champion, settings(every_minute)) == []
    with with_champion.write() as session:
        session.execute(update(NightlyRun).values(slot=NightlyRun.slot - 3600))
    (run_id,) = open_due(with_champion, settings(every_minute))
    with with_champion.write() as session:
        lease = claim_night(session, run_id, lease_seconds=60)
        assert lease is not None
        assert claim_night(session, run_id, lease_seconds=60) is None
        finish_reading(session, lease, cohort_id=None)
        assert conclude_nights(session) == [run_id]
