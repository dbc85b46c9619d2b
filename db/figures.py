"""The job table in numbers, for monitoring. Everything is given by row id; no name, no path."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import and_, case, func, or_, select
from sqlalchemy.orm import Session

from db.clock import database_now
from db.states import TERMINAL, BatchState, CohortState, ImageState, ModelState, NightState, RunState
from db.tables import Batch, Cohort, Image, Model, NightlyRun, TrainingRun

#: Seconds after its slot at which a nightly run that has not begun is late.
LATE_SECONDS = 900.0

#: Images of a cohort by state and problem code.
Counts = dict[tuple[str, str], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What all finished batches took together."""

    batches: int
    images: int
    decode_seconds: float
    forward_seconds: float
    write_seconds: float


def cohort_ids(session: Session) -> tuple[list[int], list[int]]:
    """Return the cohorts that may still change, and all the others."""
    left = select(Image.id).where(Image.cohort_id == Cohort.id, Image.state.not_in(TERMINAL)).exists()
    active = or_(Cohort.state == CohortState.INGESTING, left)
    rows = session.execute(select(Cohort.id, case((active, 1), else_=0)).order_by(Cohort.id)).all()
    return [row[0] for row in rows if row[1]], [row[0] for row in rows if not row[1]]


def count_images(session: Session, cohort_id: int) -> Counts:
    """Count a cohort's images by state and problem."""
    rows = session.execute(
        select(Image.state, Image.problem, func.count())
        .where(Image.cohort_id == cohort_id)
        .group_by(Image.state, Image.problem)
    )
    return {(state.value, problem or ""): count for state, problem, count in rows}


def oldest_pending_seconds(session: Session) -> float:
    """Return how long ago the oldest cohort was submitted that has images to screen and is not held."""
    pending = (
        select(Image.id)
        .where(
            Image.cohort_id == Cohort.id,
            Image.state.in_((ImageState.PENDING, ImageState.QUEUED, ImageState.RUNNING)),
        )
        .exists()
    )
    handed_out = or_(Cohort.hold_at.is_(None), Cohort.hold_at > database_now())
    age = select(database_now() - func.min(Cohort.created_at)).where(
        Cohort.state != CohortState.CANCELLED, handed_out, pending
    )
    return float(session.scalar(age) or 0.0)


def seconds_since_a_batch(session: Session) -> float | None:
    """Return how long ago a batch was finished last; None where none ever was."""
    return session.scalar(select(database_now() - func.max(Batch.finished_at)))


def batches_by_state(session: Session) -> dict[str, int]:
    """Count batches by state."""
    found = dict.fromkeys((state.value for state in BatchState), 0)
    rows = session.execute(select(Batch.state, func.count()).group_by(Batch.state))
    return found | {state.value: count for state, count in rows}


def leases_lost(session: Session) -> int:
    """Return how many leases have ended without a result: claims beyond a batch's last, and splits."""
    again = func.sum(case((Batch.attempt > 1, Batch.attempt - 1), else_=0))
    split = func.sum(case((Batch.state == BatchState.SPLIT, 1), else_=0))
    return int(session.scalar(select(func.coalesce(again + split, 0))) or 0)


def effort(session: Session) -> Effort:
    """Add up what finished batches took."""
    row = session.execute(
        select(
            func.count(),
            func.coalesce(func.sum(Batch.size), 0),
            func.sum(Batch.decode_seconds),
            func.sum(Batch.forward_seconds),
            func.sum(Batch.write_seconds),
        ).where(Batch.state == BatchState.DONE)
    ).one()
    return Effort(
        batches=row[0],
        images=int(row[1]),
        decode_seconds=row[2] or 0.0,
        forward_seconds=row[3] or 0.0,
        write_seconds=row[4] or 0.0,
    )


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
    """Return the model that screens."""
    return session.scalar(select(Model.name).where(Model.state == ModelState.CHAMPION))


def training_runs(session: Session) -> dict[str, int]:
    """Count training runs by state."""
    found = dict.fromkeys((state.value for state in RunState), 0)
    rows = session.execute(select(TrainingRun.state, func.count()).group_by(TrainingRun.state))
    return found | {state.value: count for state, count in rows}


def nights_late(session: Session) -> int:
    """Count nightly runs whose slot is long past and whose source has not been walked."""
    waiting = NightlyRun.state.in_((NightState.WAITING, NightState.INGESTING))
    late = and_(waiting, NightlyRun.slot < database_now() - LATE_SECONDS)
    return session.scalars(select(func.count()).select_from(NightlyRun).where(late)).one()
