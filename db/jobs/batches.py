"""Cutting batches: which cohort is next, and which of its pending images go into a batch.

Every function works in the caller's transaction and is safe to repeat.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, and_, case, func, or_, select
from sqlalchemy.orm import Session

from db.clock import database_now
from db.jobs.cohorts import lock_cohort
from db.jobs.sources import has_pending, is_pending, sources_to_cut, sources_to_try
from db.models.registry import champion
from db.queries.counts import cohorts_with
from db.states import BatchState, CohortState, ImageState
from db.tables import Batch, Cohort, Image, Source
from db.transitions import BatchChange, ImageChange, Transition, change

#: The smallest batch: one forward pass of a CPU worker.
SMALLEST_BATCH = 16

#: A cohort is cut into at least about this many batches, so that a small one is spread over several workers
#: and shows progress.
BATCHES_PER_COHORT = 16


def cut_batches(session: Session, cohort_id: int, *, batch_images: int, in_flight: int) -> list[int]:
    """Group a cohort's pending images into batches until `in_flight` are unfinished; return the new ids.

    A batch holds images of one source, so that an unavailable source delays no other. For a source that is
    unavailable, one batch at a time is cut beyond `in_flight`, to try it. The batches are pinned to the
    cohort's model, or else to the champion. Two dispatchers cut no image twice: the cohort's row is locked.
    Raises NoChampion.
    """
    cohort = lock_cohort(session, cohort_id)
    if cohort.state is CohortState.CANCELLED:
        return []
    room = in_flight - _unfinished(session, cohort_id)
    size = _batch_size(session, cohort_id, batch_images)
    to_try = sources_to_try(session, cohort_id)
    to_cut = sources_to_cut(session, cohort_id) if room > 0 else []
    if not to_try and not to_cut:
        return []
    model_id = cohort.model_id or champion(session).id
    cut: list[int] = []
    for source_id in to_cut:
        while len(cut) < room and (batch := _cut_one(session, cohort_id, source_id, model_id, size)):
            cut.append(batch)
    tries = [_cut_one(session, cohort_id, source_id, model_id, size) for source_id in to_try]
    return cut + [batch for batch in tries if batch]


def _unfinished(session: Session, cohort_id: int) -> int:
    """Count a cohort's queued and running batches, without those of unavailable sources."""
    unfinished = Batch.state.in_((BatchState.QUEUED, BatchState.RUNNING))
    query = select(func.count()).select_from(Batch).outerjoin(Source, Source.id == Batch.source_id)
    return session.scalars(
        query.where(Batch.cohort_id == cohort_id, unfinished, Source.waits_for.is_(None))
    ).one()


def _batch_size(session: Session, cohort_id: int, batch_images: int) -> int:
    """Return how many images go into a batch; counts no more of them than necessary."""
    enough = batch_images * BATCHES_PER_COHORT
    images = select(Image.id).where(Image.cohort_id == cohort_id).limit(enough).subquery()
    counted = session.scalars(select(func.count()).select_from(images)).one()
    return min(batch_images, max(SMALLEST_BATCH, counted // BATCHES_PER_COHORT))


def _cut_one(session: Session, cohort_id: int, source_id: int | None, model_id: int, size: int) -> int | None:
    pending = is_pending(cohort_id, source_id)
    first = select(Image.id).where(*pending).order_by(Image.id).limit(size).subquery()
    bounds = select(func.min(first.c.id), func.max(first.c.id), func.count()).select_from(first)
    least, greatest, count = session.execute(bounds).one()
    if not count:
        return None
    # Nobody else makes images pending or cuts them: the cohort is locked.
    of_batch = and_(*pending, Image.id.between(least, greatest))
    return new_batch(session, cohort_id, model_id, of_batch, count, ImageChange.CUT, source_id=source_id)


def new_batch(
    session: Session,
    cohort_id: int,
    model_id: int,
    which: ColumnElement[bool],
    size: int,
    transition: Transition[Any],
    *,
    source_id: int | None = None,
) -> int:
    """Put `size` images of one source into a new batch, through a transition; return the batch's id."""
    batch = Batch(
        cohort_id=cohort_id,
        model_id=model_id,
        source_id=source_id,
        state=BatchChange.CUT.to,
        size=size,
    )
    session.add(batch)
    session.flush()
    change(session, Image, transition, which, batch_id=batch.id)
    return batch.id


def cohorts_to_dispatch(session: Session) -> list[int]:
    """Return the cohorts to cut batches from: of those with pending images, the ones of highest priority.

    A cohort that waits, because its model or all its sources are unavailable, is tried as well but does not
    hold up cohorts of lower priority.
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
