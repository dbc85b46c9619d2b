"""Figures of the job table for monitoring. They hold no name of a cohort and no path.

Images are counted in `db.queries.counts`, batches in `db.queries.totals`.
"""

from __future__ import annotations

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from db.clock import database_now
from db.queries.counts import cohorts_with
from db.states import UNFINISHED, CohortState, ModelState, NightState, RunState
from db.tables import Batch, Cohort, Model, NightlyRun, TrainingRun

#: Seconds after its slot at which a nightly run is late if its source has not been read.
LATE_SECONDS = 900.0


def oldest_pending_seconds(session: Session) -> float:
    """Return the age in seconds of the oldest cohort that has images to screen and is not held."""
    handed_out = or_(Cohort.hold_at.is_(None), Cohort.hold_at > database_now())
    age = select(database_now() - func.min(Cohort.created_at)).where(
        Cohort.state != CohortState.CANCELLED, handed_out, Cohort.id.in_(cohorts_with(*UNFINISHED))
    )
    return float(session.scalar(age) or 0.0)


def seconds_since_a_batch(session: Session) -> float | None:
    """Return the seconds since the last batch was finished; None if none ever was."""
    return session.scalar(select(database_now() - func.max(Batch.finished_at)))


def gpu_memory(session: Session) -> dict[str, int]:
    """Return the GPU memory of each worker that finished a batch within the last hour."""
    recent = Batch.finished_at > database_now() - 3600
    rows = session.execute(
        select(Batch.lease_owner, func.max(Batch.gpu_memory_bytes))
        .where(recent, Batch.gpu_memory_bytes.is_not(None))
        .group_by(Batch.lease_owner)
    )
    return {owner or "": size for owner, size in rows if size is not None}


def champion_name(session: Session) -> str | None:
    """Return the name of the champion; None if there is none."""
    return session.scalar(select(Model.name).where(Model.state == ModelState.CHAMPION))


def training_runs(session: Session) -> dict[str, int]:
    """Count training runs by state."""
    found = dict.fromkeys((state.value for state in RunState), 0)
    rows = session.execute(select(TrainingRun.state, func.count()).group_by(TrainingRun.state))
    return found | {state.value: count for state, count in rows}


def nights_late(session: Session) -> int:
    """Count nightly runs that are late: their slot is long past and their source has not been read."""
    waiting = NightlyRun.state.in_((NightState.WAITING, NightState.INGESTING))
    late = and_(waiting, NightlyRun.slot < database_now() - LATE_SECONDS)
    return session.scalars(select(func.count()).select_from(NightlyRun).where(late)).one()
