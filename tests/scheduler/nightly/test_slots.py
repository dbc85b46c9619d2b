"""Slots of nightly schedules: one run a night, and windows that hold images until the next one."""

from __future__ import annotations

import datetime as dt
import threading
from collections import Counter

import pytest
from sqlalchemy import update

from db.engine import Database
from db.jobs.batches import cohorts_to_dispatch
from db.nights.runs import claim_night, conclude_nights, find_night, finish_reading, history
from db.states import ImageState, NightState
from db.tables import Image, NightlyRun
from scheduler.nightly.intake import walk_night
from scheduler.nightly.schedule import Nightly
from scheduler.nightly.slots import open_due, open_slots
from tests.scheduler.nightly.nights import DAY, MADRID, moment, settings


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
