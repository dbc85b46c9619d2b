"""Nightly runs: one per slot of a schedule, opened, walked, held and concluded.

As with batches, every change is guarded by the state and the lease token that it expects to find, so that
any number of beats and schedulers may work at once.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from itertools import chain, count
from typing import Any

from sqlalchemy import ColumnElement, CursorResult, and_, exists, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session, aliased

from db.audit.events import record
from db.clock import database_now
from db.errors import PneumoscreenError
from db.jobs.claims import LeaseLost
from db.jobs.ingests import give_up_ingests
from db.queries.counts import cohorts_with
from db.states import UNFINISHED, CohortState, NightState
from db.tables import Cohort, Image, NightlyRun


class CohortTaken(PneumoscreenError):
    """Somebody else opened a cohort of that name at the same moment. The run is tried again by itself."""

    code = "cohort-taken"


#: States in which a run's cohort may still have images to screen.
_OPEN = (NightState.SCREENING, NightState.HELD)


def now(session: Session) -> float:
    """Return the time by the database's clock."""
    return float(session.scalars(select(database_now())).one())


def open_slot(
    session: Session, name: str, slot: float, *, plan: dict[str, Any], window_ends: float | None
) -> int | None:
    """Open the run of a slot; return its id, or None where the slot has one already or precedes the schedule.

    The first slot that is seen of a name is where counting begins, and does not run.
    """
    first = session.scalar(select(func.min(NightlyRun.slot)).where(NightlyRun.name == name))
    if first is not None and slot <= first:
        return None
    state = NightState.BASELINE if first is None else NightState.WAITING
    run_id = _insert(session, name, slot, plan=plan, window_ends=window_ends, state=state)
    return run_id if state is NightState.WAITING else None


def open_now(session: Session, name: str, *, plan: dict[str, Any], window_ends: float | None) -> int:
    """Open a run that somebody asked for, outside its schedule's slots."""
    run_id = None
    while run_id is None:
        run_id = _insert(
            session, name, now(session), plan=plan, window_ends=window_ends, state=NightState.WAITING
        )
    return run_id


def _insert(session: Session, name: str, slot: float, **values: Any) -> int | None:
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    insert = (
        dialect.insert(NightlyRun)
        .values(name=name, slot=slot, **values)
        .on_conflict_do_nothing()
        .returning(NightlyRun.id)
    )
    run_id: int | None = session.scalar(insert)
    if run_id is not None and values["state"] is NightState.WAITING:
        record(session, "nightly.open", f"nightly:{run_id}")
        _extend_held(session, name, values["window_ends"])
    return run_id


def _extend_held(session: Session, name: str, window_ends: float | None) -> None:
    """Let what earlier nights have left go on in this night's window."""
    session.execute(
        update(Cohort)
        .where(Cohort.nightly == name, Cohort.hold_at.is_not(None), _unfinished())
        .values(hold_at=window_ends)
        .execution_options(synchronize_session=False)
    )


def claim_night(session: Session, run_id: int, *, lease_seconds: float) -> str | None:
    """Take a run whose source is to be walked; return the lease token, or None where it is taken.

    None, too, while another run of the schedule is under way: both would take in the same files.
    """
    token = secrets.token_hex(16)
    _lock_unwalked(session, run_id)
    lost = and_(NightlyRun.state == NightState.INGESTING, NightlyRun.lease_until < database_now())
    other = aliased(NightlyRun)
    other_walks = exists().where(
        other.name == NightlyRun.name,
        other.id != NightlyRun.id,
        other.state == NightState.INGESTING,
        other.lease_until >= database_now(),
    )
    taken = _change(
        session,
        NightlyRun.id == run_id,
        or_(NightlyRun.state == NightState.WAITING, lost),
        ~other_walks,
        state=NightState.INGESTING,
        lease_token=token,
        lease_until=database_now() + lease_seconds,
    )
    return token if taken else None


def _lock_unwalked(session: Session, run_id: int) -> None:
    """Wait until nobody else claims a run of the same schedule."""
    name = select(NightlyRun.name).where(NightlyRun.id == run_id).scalar_subquery()
    unwalked = NightlyRun.state.in_((NightState.WAITING, NightState.INGESTING))
    query = select(NightlyRun.id).where(NightlyRun.name == name, unwalked).order_by(NightlyRun.id)
    session.execute(query.with_for_update()).all()


def keep_night(session: Session, run_id: int, token: str, *, lease_seconds: float) -> None:
    """Put off the end of a lease. Raises LeaseLost."""
    _as_holder(session, run_id, token, lease_until=database_now() + lease_seconds)


def walked(session: Session, run_id: int, token: str, *, cohort_id: int | None) -> None:
    """Note that a run's source was walked; `cohort_id` is None where nothing was new. Raises LeaseLost."""
    _as_holder(
        session, run_id, token,
        state=NightState.SCREENING, cohort_id=cohort_id, problem=None, lease_token=None, lease_until=None,
    )  # fmt: skip


def not_walked(session: Session, run_id: int, token: str, problem: str, *, again: bool) -> None:
    """Note that a run's source could not be walked, and whether to try again. Raises LeaseLost.

    What was taken in until then is screened all the same.
    """
    _as_holder(
        session, run_id, token,
        state=NightState.WAITING if again else NightState.FAILED,
        problem=problem, lease_token=None, lease_until=None,
        # As if it had been rung for just now: the next try is as far off as a ring for a lost message.
        rung_at=database_now(),
        finished_at=None if again else database_now(),
    )  # fmt: skip
    cohort_id = session.scalar(select(NightlyRun.cohort_id).where(NightlyRun.id == run_id))
    if cohort_id is not None and not again:
        give_up_ingests(session, cohort_id)


def own_cohort(session: Session, run: NightlyRun, wanted: str) -> str:
    """Return the name of a run's own cohort.

    It is the one that an earlier try has opened, or else the first of NAME, NAME-2, NAME-3 that is free.
    """
    if run.cohort_id is not None:
        return session.get_one(Cohort, run.cohort_id).name
    for name in chain([wanted], (f"{wanted}-{number}" for number in count(2))):
        cohort = session.scalar(select(Cohort).where(Cohort.name == name))
        if cohort is None or _is_free(session, cohort, run):
            return name
    raise AssertionError("names do not end")


def attach(session: Session, cohort: Cohort, run: NightlyRun) -> None:
    """Make a cohort a run's own, screened within the run's window. Raises CohortTaken."""
    if not _is_free(session, cohort, run):
        raise CohortTaken
    cohort.nightly, cohort.hold_at = run.name, run.window_ends
    run.cohort_id = cohort.id


def _is_free(session: Session, cohort: Cohort, run: NightlyRun) -> bool:
    """Tell whether a run may have a cohort: no other run has it, and nobody has submitted anything to it."""
    others = select(NightlyRun.id).where(NightlyRun.cohort_id == cohort.id, NightlyRun.id != run.id)
    if session.scalar(others.limit(1)) is not None:
        return False
    if cohort.nightly is None:
        return session.scalar(select(Image.id).where(Image.cohort_id == cohort.id).limit(1)) is None
    return cohort.nightly == run.name


def nights_to_ring(session: Session, *, again_seconds: float) -> list[int]:
    """Return waiting runs that nobody was told of, or nobody came for since, and those whose holder died."""
    stale = or_(NightlyRun.rung_at.is_(None), NightlyRun.rung_at < database_now() - again_seconds)
    return list(session.scalars(select(NightlyRun.id).where(_to_walk(), stale).order_by(NightlyRun.id)))


def count_nights_to_walk(session: Session) -> int:
    """Count the runs whose source waits for somebody to walk it."""
    return session.scalars(select(func.count()).select_from(NightlyRun).where(_to_walk())).one()


def _to_walk() -> ColumnElement[bool]:
    lost = and_(NightlyRun.state == NightState.INGESTING, NightlyRun.lease_until < database_now())
    return or_(NightlyRun.state == NightState.WAITING, lost)


def mark_nights_rung(session: Session, run_ids: Sequence[int]) -> None:
    """Note that the ingest queue has been told of these runs."""
    _change(session, NightlyRun.id.in_(run_ids), rung_at=database_now())


def forget_night_rings(session: Session) -> None:
    """Let every waiting run be rung for again, as when a broker starts empty."""
    _change(session, NightlyRun.state == NightState.WAITING, rung_at=None)


def conclude_nights(session: Session) -> list[int]:
    """End runs whose images have all ended, hold those whose window has; return what awaits a summary."""
    cohort_done = or_(
        NightlyRun.cohort_id.is_(None),
        ~select(Cohort.id).where(Cohort.id == NightlyRun.cohort_id, _unfinished()).exists(),
    )
    _change(
        session, NightlyRun.state.in_(_OPEN), cohort_done,
        state=NightState.DONE, finished_at=func.coalesce(NightlyRun.finished_at, database_now()),
    )  # fmt: skip
    _change(
        session, NightlyRun.state == NightState.SCREENING, NightlyRun.window_ends <= database_now(),
        state=NightState.HELD, finished_at=database_now(),
    )  # fmt: skip
    awaits = select(NightlyRun.id).where(
        NightlyRun.state.in_((NightState.DONE, NightState.HELD, NightState.FAILED)),
        NightlyRun.summarised_at.is_(None),
        or_(NightlyRun.lease_until.is_(None), NightlyRun.lease_until < database_now()),
    )
    return list(session.scalars(awaits.order_by(NightlyRun.id)))


def claim_summary(session: Session, run_id: int, *, lease_seconds: float) -> bool:
    """Take the writing of a run's summary; False where somebody else is at it or it is written."""
    return _change(
        session,
        NightlyRun.id == run_id,
        NightlyRun.summarised_at.is_(None),
        or_(NightlyRun.lease_until.is_(None), NightlyRun.lease_until < database_now()),
        lease_until=database_now() + lease_seconds,
    )


def note_summary(session: Session, run_id: int, summary: dict[str, Any], *, ended: bool) -> None:
    """Keep a run's figures and where they were sent; not `ended`, another try is made after the lease."""
    end = {"summarised_at": database_now(), "lease_until": None} if ended else {}
    _change(session, NightlyRun.id == run_id, summary=summary, **end)


def find_night(session: Session, run_id: int) -> NightlyRun:
    """Return a run by id."""
    return session.get_one(NightlyRun, run_id)


def history(session: Session, name: str | None = None, *, limit: int = 30) -> Sequence[NightlyRun]:
    """Return the runs of one schedule or of all, the latest first."""
    query = select(NightlyRun).where(NightlyRun.state != NightState.BASELINE)
    if name is not None:
        query = query.where(NightlyRun.name == name)
    return session.scalars(query.order_by(NightlyRun.slot.desc()).limit(limit)).all()


def _unfinished() -> ColumnElement[bool]:
    """Match cohorts that are being taken in, or that have images which have not ended."""
    return or_(Cohort.state == CohortState.INGESTING, Cohort.id.in_(cohorts_with(*UNFINISHED)))


def _as_holder(session: Session, run_id: int, token: str, **values: Any) -> None:
    held = and_(NightlyRun.state == NightState.INGESTING, NightlyRun.lease_token == token)
    if not _change(session, NightlyRun.id == run_id, held, **values):
        raise LeaseLost


def _change(session: Session, *which: ColumnElement[bool], **values: Any) -> bool:
    """Change the runs that match; return whether there were any."""
    result = session.execute(
        update(NightlyRun).where(*which).values(**values).execution_options(synchronize_session=False)
    )
    assert isinstance(result, CursorResult)  # noqa: S101  (for the type checker: updates always give one)
    return result.rowcount > 0
