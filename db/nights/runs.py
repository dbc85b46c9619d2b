"""Nightly runs: one per slot of a schedule, from opening to the summary.

Every change is guarded by the state that it starts from, and a holder's change by its lease, so that any
number of beat processes and schedulers may work at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, count
from typing import Any

from sqlalchemy import ColumnElement, and_, exists, func, or_, select, update
from sqlalchemy.orm import Session, aliased

from db.audit.events import record
from db.clock import database_now
from db.engine import insert_new
from db.errors import PneumoscreenError
from db.jobs.ingests import give_up_ingests
from db.lease import Lease, claiming, new_lease, release
from db.queries.counts import cohorts_with
from db.states import UNFINISHED, CohortState, NightState
from db.tables import Cohort, Image, NightlyRun
from db.transitions import NightChange, Transition, affected, change


class CohortTaken(PneumoscreenError):
    """Another process opened a cohort of that name at the same moment. The run is tried again by itself."""

    code = "cohort-taken"


def now(session: Session) -> float:
    """Return the time by the database's clock."""
    return float(session.scalars(select(database_now())).one())


def open_slot(
    session: Session, name: str, slot: float, *, plan: dict[str, Any], window_ends: float | None
) -> int | None:
    """Open the run of a slot; return its id, or None if the slot has one or is before the schedule's first.

    The first slot that is seen of a name is the baseline: it does not run.
    """
    first = session.scalar(select(func.min(NightlyRun.slot)).where(NightlyRun.name == name))
    if first is not None and slot <= first:
        return None
    opening = NightChange.FIRST_SLOT if first is None else NightChange.OPEN
    run_id = _insert(session, name, slot, opening, plan=plan, window_ends=window_ends)
    return run_id if opening is NightChange.OPEN else None


def open_now(session: Session, name: str, *, plan: dict[str, Any], window_ends: float | None) -> int:
    """Open a run that a user asked for, outside its schedule's slots."""
    run_id = None
    while run_id is None:
        run_id = _insert(session, name, now(session), NightChange.OPEN, plan=plan, window_ends=window_ends)
    return run_id


def _insert(
    session: Session,
    name: str,
    slot: float,
    opening: Transition[NightState],
    *,
    plan: dict[str, Any],
    window_ends: float | None,
) -> int | None:
    new = insert_new(session, NightlyRun).values(
        name=name, slot=slot, state=opening.to, plan=plan, window_ends=window_ends
    )
    run_id: int | None = session.scalar(new.returning(NightlyRun.id))
    if run_id is not None and opening is NightChange.OPEN:
        record(session, "nightly.open", f"nightly:{run_id}")
        _extend_held(session, name, window_ends)
    return run_id


def _extend_held(session: Session, name: str, window_ends: float | None) -> None:
    """Let the unfinished images of earlier nights be screened in this night's window."""
    session.execute(
        update(Cohort)
        .where(Cohort.nightly == name, Cohort.hold_at.is_not(None), _unfinished())
        .values(hold_at=window_ends)
        .execution_options(synchronize_session=False)
    )


def claim_night(session: Session, run_id: int, *, lease_seconds: float) -> Lease | None:
    """Claim a run whose source must be read; return the lease, or None if somebody else holds the run.

    It is also None while somebody holds another run of the schedule: both would add the same files.
    """
    lease = new_lease(NightlyRun, run_id, seconds=lease_seconds)
    _lock_unread(session, run_id)
    other = aliased(NightlyRun)
    other_is_read = exists().where(
        other.name == NightlyRun.name,
        other.id != NightlyRun.id,
        other.state == NightState.INGESTING,
        other.lease_until >= database_now(),
    )
    return lease if affected(session, claiming(lease, NightChange.CLAIM, ~other_is_read)) else None


def _lock_unread(session: Session, run_id: int) -> None:
    """Wait until nobody else claims a run of the same schedule."""
    name = select(NightlyRun.name).where(NightlyRun.id == run_id).scalar_subquery()
    unread = NightlyRun.state.in_(NightChange.CLAIM.sources)
    query = select(NightlyRun.id).where(NightlyRun.name == name, unread).order_by(NightlyRun.id)
    session.execute(query.with_for_update()).all()


def finish_reading(session: Session, lease: Lease, *, cohort_id: int | None) -> None:
    """Note that a run's source was read; `cohort_id` is None if it had no new images. Raises LeaseLost."""
    release(session, lease, NightChange.SCREEN, cohort_id=cohort_id, problem=None)


def fail_reading(session: Session, lease: Lease, problem: str, *, again: bool) -> None:
    """Note that a run's source could not be read, and whether to try again. Raises LeaseLost.

    The images that were added before are screened in any case.
    """
    release(
        session,
        lease,
        NightChange.WAIT if again else NightChange.FAIL,
        problem=problem,
        # As if it was notified now: the next try comes when a lost message would be repeated.
        notified_at=database_now(),
        finished_at=None if again else database_now(),
    )
    cohort_id = session.scalar(select(NightlyRun.cohort_id).where(NightlyRun.id == lease.row_id))
    if cohort_id is not None and not again:
        give_up_ingests(session, cohort_id)


def own_cohort(session: Session, run: NightlyRun, wanted: str) -> str:
    """Return the name of a run's own cohort.

    It is the cohort that an earlier try has opened, or else the first unused one of NAME, NAME-2, NAME-3.
    """
    if run.cohort_id is not None:
        return session.get_one(Cohort, run.cohort_id).name
    for name in chain([wanted], (f"{wanted}-{number}" for number in count(2))):
        cohort = session.scalar(select(Cohort).where(Cohort.name == name))
        if cohort is None or _is_free(session, cohort, run):
            return name
    raise AssertionError("the names never end")


def attach(session: Session, cohort: Cohort, run: NightlyRun) -> None:
    """Assign a cohort to a run, to be screened within the run's window. Raises CohortTaken."""
    if not _is_free(session, cohort, run):
        raise CohortTaken
    cohort.nightly, cohort.hold_at = run.name, run.window_ends
    run.cohort_id = cohort.id


def _is_free(session: Session, cohort: Cohort, run: NightlyRun) -> bool:
    """Tell whether a run may have a cohort: no other run has it, and no user has submitted images to it."""
    others = select(NightlyRun.id).where(NightlyRun.cohort_id == cohort.id, NightlyRun.id != run.id)
    if session.scalar(others.limit(1)) is not None:
        return False
    if cohort.nightly is None:
        return session.scalar(select(Image.id).where(Image.cohort_id == cohort.id).limit(1)) is None
    return cohort.nightly == run.name


def conclude_nights(session: Session) -> list[int]:
    """Finish runs whose images have ended, hold runs whose window has ended, return those to summarise."""
    has_ended = or_(
        NightlyRun.cohort_id.is_(None),
        ~select(Cohort.id).where(Cohort.id == NightlyRun.cohort_id, _unfinished()).exists(),
    )
    first_end = func.coalesce(NightlyRun.finished_at, database_now())
    change(session, NightlyRun, NightChange.FINISH, has_ended, finished_at=first_end)
    window_has_ended = NightlyRun.window_ends <= database_now()
    change(session, NightlyRun, NightChange.HOLD, window_has_ended, finished_at=database_now())
    ended = NightlyRun.state.in_((NightState.DONE, NightState.HELD, NightState.FAILED))
    query = select(NightlyRun.id).where(ended, _needs_summary()).order_by(NightlyRun.id)
    return list(session.scalars(query))


def _needs_summary() -> ColumnElement[bool]:
    """Match runs without a summary that nobody writes now."""
    nobody = or_(NightlyRun.lease_until.is_(None), NightlyRun.lease_until < database_now())
    return and_(NightlyRun.summarised_at.is_(None), nobody)


def claim_summary(session: Session, run_id: int, *, lease_seconds: float) -> bool:
    """Claim the writing of a run's summary; return False if somebody else writes it or it is written."""
    until = database_now() + lease_seconds
    claim = update(NightlyRun).where(NightlyRun.id == run_id, _needs_summary()).values(lease_until=until)
    return affected(session, claim.execution_options(synchronize_session=False)) == 1


def note_summary(session: Session, run_id: int, summary: dict[str, Any], *, ended: bool) -> None:
    """Store a run's figures and where they were sent; unless `ended`, it is sent again after the lease."""
    end = {"summarised_at": database_now(), "lease_until": None} if ended else {}
    session.execute(
        update(NightlyRun)
        .where(NightlyRun.id == run_id)
        .values(summary=summary, **end)
        .execution_options(synchronize_session=False)
    )


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
    """Match cohorts that are still open, or that have unfinished images."""
    return or_(Cohort.state == CohortState.INGESTING, Cohort.id.in_(cohorts_with(*UNFINISHED)))
