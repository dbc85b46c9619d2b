"""Batches: cutting them, and ringing the broker for them.

Every function here works in the caller's transaction and is safe to repeat.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from db.clock import database_now
from db.cohorts import lock_cohort
from db.counts import cohorts_with
from db.registry import champion
from db.states import BatchState, CohortState, ImageState
from db.tables import Batch, Cohort, Image

#: The smallest batch: one forward pass of a CPU worker.
SMALLEST_BATCH = 16

#: A cohort is cut into at least about this many batches, so that a small one still spreads over
#: workers and shows progress.
BATCHES_PER_COHORT = 16


def cut_batches(session: Session, cohort_id: int, *, batch_images: int, in_flight: int) -> list[int]:
    """Group a cohort's pending images into batches until `in_flight` are under way; return the new ids.

    The batches are pinned to the cohort's model, or else the champion. Two dispatchers at once cut
    no image twice: the cohort's row is locked. Raises NoChampion.
    """
    cohort = lock_cohort(session, cohort_id)
    if cohort.state is CohortState.CANCELLED:
        return []
    free = in_flight - _under_way(session, cohort_id)
    size = _batch_size(session, cohort_id, batch_images)
    model_id = cohort.model_id or (champion(session).id if free > 0 else None)
    cut: list[int] = []
    while len(cut) < free and model_id is not None:
        batch = _cut_one(session, cohort_id, model_id, size)
        if batch is None:
            break
        cut.append(batch)
    return cut


def _under_way(session: Session, cohort_id: int) -> int:
    unfinished = Batch.state.in_((BatchState.QUEUED, BatchState.RUNNING))
    query = select(func.count()).select_from(Batch).where(Batch.cohort_id == cohort_id, unfinished)
    return session.scalars(query).one()


def _batch_size(session: Session, cohort_id: int, batch_images: int) -> int:
    """Return how many images go into a batch; looks no further than it takes to know."""
    enough = batch_images * BATCHES_PER_COHORT
    images = select(Image.id).where(Image.cohort_id == cohort_id).limit(enough).subquery()
    seen = session.scalars(select(func.count()).select_from(images)).one()
    return min(batch_images, max(SMALLEST_BATCH, seen // BATCHES_PER_COHORT))


def _cut_one(session: Session, cohort_id: int, model_id: int, size: int) -> int | None:
    pending = (
        select(Image.id)
        .where(Image.cohort_id == cohort_id, Image.state == ImageState.PENDING)
        .order_by(Image.id)
        .limit(size)
    )
    image_ids = session.scalars(pending).all()
    if not image_ids:
        return None
    return new_batch(session, cohort_id, model_id, image_ids)


def new_batch(session: Session, cohort_id: int, model_id: int, image_ids: Sequence[int]) -> int:
    """Put images into a new batch and return its id."""
    batch = Batch(cohort_id=cohort_id, model_id=model_id, state=BatchState.QUEUED, size=len(image_ids))
    session.add(batch)
    session.flush()
    session.execute(
        update(Image)
        .where(Image.id.in_(image_ids))
        .values(state=ImageState.QUEUED, batch_id=batch.id)
        .execution_options(synchronize_session=False)
    )
    return batch.id


def cohorts_to_dispatch(session: Session) -> list[int]:
    """Return the cohorts whose turn it is: of those with pending images, the ones of highest priority.

    One that waits for something, as a source that is away, is tried in its turn but holds up nobody.
    """
    query = (
        select(Cohort.id, Cohort.priority, Cohort.waits_for)
        .where(
            Cohort.state != CohortState.CANCELLED,
            or_(Cohort.hold_at.is_(None), Cohort.hold_at > database_now()),
            Cohort.id.in_(cohorts_with(ImageState.PENDING)),
        )
        .order_by(Cohort.priority.desc(), Cohort.id)
    )
    rows = session.execute(query).all()
    bar = max((row.priority for row in rows if row.waits_for is None), default=None)
    return [row.id for row in rows if bar is None or row.priority >= bar]


def batches_to_ring(session: Session, *, again_seconds: float) -> list[int]:
    """Return queued batches that the broker has not been told of, or that nobody came for since."""
    stale = or_(Batch.rung_at.is_(None), Batch.rung_at < database_now() - again_seconds)
    return list(
        session.scalars(select(Batch.id).where(Batch.state == BatchState.QUEUED, stale).order_by(Batch.id))
    )


def mark_rung(session: Session, batch_ids: Sequence[int]) -> None:
    """Note that the broker has been told of these batches."""
    session.execute(
        update(Batch)
        .where(Batch.id.in_(batch_ids))
        .values(rung_at=database_now())
        .execution_options(synchronize_session=False)
    )


def forget_rings(session: Session) -> None:
    """Let every queued batch be rung for again, as when a broker starts empty."""
    session.execute(
        update(Batch)
        .where(Batch.state == BatchState.QUEUED)
        .values(rung_at=None)
        .execution_options(synchronize_session=False)
    )
