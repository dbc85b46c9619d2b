"""Nightly screening: slots, windows, what is new, summaries."""

from __future__ import annotations

import datetime as dt
import json
import socket
import threading
from collections import Counter
from email import message_from_bytes
from email.policy import default
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import func, select, update

from db.batches import cohorts_to_dispatch
from db.engine import Database
from db.nightly import claim_night, conclude_nights, find_night, history, walked
from db.registry import ensure_champion
from db.settings import SettingsInvalid
from db.states import ImageState, NightState
from db.tables import Batch, Cohort, Image, Model, NightlyRun, Prediction
from scheduler.nightly.night import open_due, open_slots, ring_nights, run_now, walk_night
from scheduler.nightly.schedule import Nightly, NightlySettings
from scheduler.nightly.send import SendSettings, send
from scheduler.nightly.summary import conclude, summarise
from scheduler.noted import noted_heads, sealed_head

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
    # Of the three nights that were missed the last is made up, and it finds all that is new.
    assert len(nights) == 365 - 2
    assert dt.date(2026, 6, 11) not in nights
    assert dt.date(2026, 6, 13) in nights
    # Half past two does not come on the day when clocks go forward: it is due when the gap is over.
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
    ['cron = "61 * * * *"', 'cron = "0 0 30 2 *"', 'time_zone = "Mars/Base"', 'cohort = "{name}"', "x = 1"],
)
def test_a_schedule_that_cannot_be_used_is_refused_by_name(home: Path, wrong: str) -> None:
    home.mkdir()
    (home / "pneumoscreen.toml").write_text(f'[[nightly]]\nname = "ward"\nsource = "/x"\n{wrong}\n')
    with pytest.raises(SettingsInvalid, match="PNEUMOSCREEN_NIGHTLY"):
        NightlySettings.read()


def test_only_what_is_new_is_taken_in(with_champion: Database, ward: Nightly, folder: Path) -> None:
    first = run_now(with_champion, ward)
    assert walk_night(with_champion, settings(ward), first)
    assert not walk_night(with_champion, settings(ward), first), "a doubled message walked it again"
    (folder / "3.png").write_bytes(b"new")
    tomorrow = ward.model_copy(update={"cohort": "{name}-{date}-later"})
    second, third = run_now(with_champion, tomorrow), run_now(with_champion, tomorrow)
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
        # As a worker leaves it that is killed after the last image and before it says so.
        session.execute(
            update(NightlyRun).values(state=NightState.INGESTING, lease_until=1.0, cohort_id=None)
        )
        session.execute(update(Cohort).values(state="ingesting"))
    rung: list[int] = []
    assert ring_nights(with_champion, settings(ward), rung.append) == 1
    assert rung == [run_id]
    assert walk_night(with_champion, settings(ward), run_id)
    with with_champion.read() as session:
        run = find_night(session, run_id)
        assert run.state is NightState.SCREENING
        assert run.cohort_id is not None
        assert session.scalars(select(Cohort.state)).one() == "ready"
        assert session.scalars(select(func.count()).select_from(Image)).one() == 3


def test_a_source_that_is_away_is_tried_until_the_window_ends(with_champion: Database, ward: Nightly) -> None:
    gone = ward.model_copy(update={"source": "/gone"})
    run_id = run_now(with_champion, gone)
    walk_night(with_champion, settings(gone), run_id)
    with with_champion.read() as session:
        run = find_night(session, run_id)
        assert (run.state, run.problem) == (NightState.WAITING, "source-missing")
    assert ring_nights(with_champion, settings(gone), lambda _: None) == 0, "it was tried again at once"
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
        assert len(cohorts_to_dispatch(session)) == 1, "the next night does not go on with it"
    with with_champion.write() as session:
        session.execute(update(Image).values(state=ImageState.SKIPPED, problem="duplicate-instance"))
        conclude_nights(session)
        assert find_night(session, run_id).state is NightState.DONE
        assert find_night(session, later).state is NightState.WAITING


def screen(database: Database, run_id: int, probabilities: list[float]) -> None:
    """Write what workers would: a prediction for each of a run's first images, and one failure."""
    with database.write() as session:
        run = find_night(session, run_id)
        # A run that takes a minute, and ends now.
        run.created_at -= 60
        model_id = session.scalars(select(Model.id)).one()
        batch = Batch(
            cohort_id=run.cohort_id, model_id=model_id, state="done", size=len(probabilities),
            created_at=run.created_at + 1, finished_at=run.created_at + 3,
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
            image.state, image.problem = ImageState.FAILED, "corrupt-image"
    with database.write() as session:
        assert conclude_nights(session) == [run_id]


def test_the_summary_says_what_the_night_came_to(
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
    later = run_now(with_champion, ward.model_copy(update={"cohort": "{name}-{date}-later"}))
    walk_night(with_champion, settings(ward), later)
    screen(with_champion, later, [0.1])
    summarise(with_champion, settings(ward), later)
    text = sorted((home / "nightly").glob("*.txt"))[-1].read_text()
    assert "done 1 (median of the last 1 nights 2)" in text


class Inbox:
    """A mail server that keeps what it gets: enough of RFC 5321 for one message at a time."""

    def __init__(self, *, refuse: int = 0) -> None:
        """Refuse the first messages."""
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
    """A webhook that fails as often as it is told."""

    got: list[bytes] = []  # noqa: RUF012  (one per test run)
    refuse = 1

    def do_POST(self) -> None:
        self.got.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(500 if len(self.got) <= self.refuse else 204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def receive(monkeypatch: pytest.MonkeyPatch, *, refuse: int = 0) -> tuple[Inbox, HTTPServer]:
    """Have summaries sent to a mail server, which refuses so many at first, and to a web server."""
    Hook.got.clear()
    inbox, hook = Inbox(refuse=refuse), HTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=hook.serve_forever, daemon=True).start()
    for name, value in {
        "SMTP_HOST": "127.0.0.1", "SMTP_PORT": inbox.port, "SMTP_SECURITY": "none",
        "MAIL_TO": '["radiology@example.org"]', "WEBHOOK_URL": f"http://127.0.0.1:{hook.server_port}/x",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"PNEUMOSCREEN_{name}", str(value))
    return inbox, hook


def test_the_summary_is_sent_and_sent_again_where_that_failed(
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
    assert conclude(with_champion) == [], "somebody else is at it"
    with with_champion.write() as session:
        session.execute(update(NightlyRun).values(lease_until=1.0))
    assert conclude(with_champion) == [run_id]
    monkeypatch.delenv("PNEUMOSCREEN_SMTP_HOST")
    summarise(with_champion, settings(ward), run_id)
    hook.shutdown()
    assert json.loads(Hook.got[-1])["done"] == 3
    assert "audit_head" in json.loads(Hook.got[-1])
    assert conclude(with_champion) == []


def test_a_webhook_that_redirects_took_nothing_and_leads_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_what_went_out_is_not_sent_again_while_the_other_fails(
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
        token = claim_night(session, run_id, lease_seconds=60)
        assert token is not None
        assert claim_night(session, run_id, lease_seconds=60) is None
        walked(session, run_id, token, cohort_id=None)
        assert conclude_nights(session) == [run_id]
