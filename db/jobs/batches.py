"""Batches: cutting them, and ringing the broker for them.

Every function here works in the caller's transaction and is safe to repeat.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, and_, case, func, or_, select, update
from sqlalchemy.orm import Session

from db.clock import database_now
from db.jobs.cohorts import lock_cohort
from db.jobs.sources import has_pending, is_pending, sources_to_cut, sources_to_try
from db.models.registry import champion
from db.queries.counts import cohorts_with
from db.states import BatchState, CohortState, ImageState
from db.tables import Batch, Cohort, Image, Source

#: The smallest batch: one forward pass of a CPU worker.
SMALLEST_BATCH = 16

#: A cohort is cut into at least about this many batches, so that a small one still spreads over
#: workers and shows progress.
BATCHES_PER_COHORT = 16


def cut_batches(session: Session, cohort_id: int, *, batch_images: int, in_flight: int) -> list[int]:
    """Group a cohort's pending images into batches until `in_flight` are under way; return the new ids.

    A batch holds images of one source, so that one that is unavailable holds up no other; of such a source
    one batch at a time is cut to try it, beside the others. The batches are pinned to the cohort's model, or
    else the champion. Two dispatchers at once cut no image twice: the cohort's row is locked.
    Raises NoChampion.
    """
    cohort = lock_cohort(session, cohort_id)
    if cohort.state is CohortState.CANCELLED:
        return []
    free = in_flight - _under_way(session, cohort_id)
    size = _batch_size(session, cohort_id, batch_images)
    to_try = sources_to_try(session, cohort_id)
    to_cut = sources_to_cut(session, cohort_id) if free > 0 else []
    if not to_try and not to_cut:
        return []
    model_id = cohort.model_id or champion(session).id
    cut: list[int] = []
    for source_id in to_cut:
        while len(cut) < free and (batch := _cut_one(session, cohort_id, source_id, model_id, size)):
            cut.append(batch)
    tries = [_cut_one(session, cohort_id, source_id, model_id, size) for source_id in to_try]
    return cut + [batch for batch in tries if batch]


def _under_way(session: Session, cohort_id: int) -> int:
    """Count a cohort's batches that are not done, without those of sources that are waited for."""
    unfinished = Batch.state.in_((BatchState.QUEUED, BatchState.RUNNING))
    query = select(func.count()).select_from(Batch).outerjoin(Source, Source.id == Batch.source_id)
    return session.scalars(
        query.where(Batch.cohort_id == cohort_id, unfinished, Source.waits_for.is_(None))
    ).one()


def _batch_size(session: Session, cohort_id: int, batch_images: int) -> int:
    """Return how many images go into a batch; looks no further than it takes to know."""
    enough = batch_images * BATCHES_PER_COHORT
    images = select(Image.id).where(Image.cohort_id == cohort_id).limit(enough).subquery()
    seen = session.scalars(select(func.count()).select_from(images)).one()
    return min(batch_images, max(SMALLEST_BATCH, seen // BATCHES_PER_COHORT))


def _cut_one(session: Session, cohort_id: int, source_id: int | None, model_id: int, size: int) -> int | None:
    pending = select(Image.id).where(*is_pending(cohort_id, source_id)).order_by(Image.id).limit(size)
    image_ids = session.scalars(pending).all()
    if not image_ids:
        return None
    return new_batch(session, cohort_id, model_id, image_ids, source_id=source_id)


def new_batch(
    session: Session,
    cohort_id: int,
    model_id: int,
    image_ids: Sequence[int],
    *,
    source_id: int | None = None,
) -> int:
    """Put images of a source into a new batch and return its id."""
    batch = Batch(
        cohort_id=cohort_id,
        model_id=model_id,
        source_id=source_id,
        state=BatchState.QUEUED,
        size=len(image_ids),
    )
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

    One that waits for something, as its model or all its sources, is tried in its turn but holds up nobody.
    """
    can_be_cut = has_pending(waiting=False)
    goes_on = and_(Cohort.waits_for.is_(None), can_be_cut)
    query = (
        select(Cohort.id, Cohort.priority, case((goes_on, 1), else_=0).label("goes_on"))
        .where(
            Cohort.state != CohortState.CANCELLED,
            or_(Cohort.hold_at.is_(None), Cohort.hold_at > database_now()),
            Cohort.id.in_(cohorts_with(ImageState.PENDING)),
            or_(can_be_cut, has_pending(waiting=True)),
        )
        .order_by(Cohort.priority.desc(), Cohort.id)
    )
    rows = session.execute(query).all()
    bar = max((row.priority for row in rows if row.goes_on), default=None)
    return [row.id for row in rows if bar is None or row.priority >= bar]


def can_be_claimed() -> ColumnElement[bool]:
    """Match batches that do not wait for something that was unavailable."""
    return or_(Batch.claim_after.is_(None), Batch.claim_after <= database_now())


def count_queued(session: Session) -> int:
    """Count the batches that workers may claim: so many messages are enough, whatever they name."""
    queued = select(func.count()).where(Batch.state == BatchState.QUEUED, can_be_claimed())
    return session.scalars(queued).one()


def batches_to_ring(session: Session, *, again_seconds: float) -> list[int]:
    """Return queued batches that the broker has not been told of, or that nobody came for since."""
    stale = or_(Batch.rung_at.is_(None), Batch.rung_at < database_now() - again_seconds)
    query = select(Batch.id).where(Batch.state == BatchState.QUEUED, can_be_claimed(), stale)
    # What was never rung for comes first, if the broker needs fewer messages.
    return list(session.scalars(query.order_by(Batch.rung_at.is_not(None), Batch.id)))


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
