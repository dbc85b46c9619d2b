"""The sweep: what happens to a batch whose lease has expired."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.jobs.batches import new_batch
from db.jobs.cohorts import lock_cohorts_of
from db.jobs.duplicates import promote_duplicates
from db.jobs.problems import Cancelled, WorkerLost
from db.lease import RELEASED, expired
from db.states import CohortState, ImageState
from db.tables import Batch, Cohort, Image
from db.transitions import BatchChange, ImageChange, Transition, change

#: Claims of a batch that may expire before it is split. With two, one power cut splits nothing.
ATTEMPTS = 2

#: Parts that a batch is split into. Three splits take 256 images down to one.
PARTS = 8


def expire_batches(session: Session) -> int:
    """Take every batch whose lease has expired from its holder; return how many there were.

    The first time, the batch is requeued. The second time it is split, so that an image that kills workers
    ends up alone in a batch; it then fails as `worker-lost`. A batch of a cohort that somebody cancels or
    retries at this moment is left to the next sweep.
    """
    # The cohorts are locked first, as `cancel` does: the two would otherwise not see each other's changes.
    cohorts = {cohort.id: cohort for cohort in lock_cohorts_of(session, expired(Batch))}
    batches = session.scalars(
        select(Batch)
        .where(expired(Batch), Batch.cohort_id.in_(cohorts))
        .order_by(Batch.id)
        .with_for_update(skip_locked=True)
    ).all()
    for batch in batches:
        _expire(session, batch, cohorts[batch.cohort_id])
    return len(batches)


def any_expired(session: Session) -> bool:
    """Tell whether `expire_batches` left batches whose lease has expired, because somebody locked them."""
    return session.scalar(select(Batch.id).where(expired(Batch)).limit(1)) is not None


def _expire(session: Session, batch: Batch, cohort: Cohort) -> None:
    batch.lost += 1
    if cohort.state is CohortState.CANCELLED:
        _release(session, batch, BatchChange.CANCEL_LOST)
        _change_images(session, batch, ImageChange.CANCEL_LOST, problem=Cancelled.code)
    elif batch.attempt < ATTEMPTS:
        _release(session, batch, BatchChange.EXPIRE)
        _change_images(session, batch, ImageChange.REQUEUE)
    elif batch.size > 1:
        _release(session, batch, BatchChange.SPLIT)
        _split(session, batch)
    else:
        _release(session, batch, BatchChange.FAIL)
        _change_images(session, batch, ImageChange.LOSE, problem=WorkerLost.code)
        failed = session.scalars(select(Image.id).where(Image.batch_id == batch.id)).all()
        promote_duplicates(session, cohort.id, failed)


def _release(session: Session, batch: Batch, transition: Transition[Any]) -> None:
    transition.apply(batch)
    for name, value in RELEASED.items():
        setattr(batch, name, value)
    batch.notified_at = None
    session.flush()


def _change_images(session: Session, batch: Batch, transition: Transition[Any], **values: Any) -> None:
    change(session, Image, transition, Image.batch_id == batch.id, **values)


def _split(session: Session, batch: Batch) -> None:
    query = select(Image.id).where(Image.batch_id == batch.id, Image.state == ImageState.RUNNING)
    image_ids = session.scalars(query.order_by(Image.id)).all()
    size = max(1, -(-len(image_ids) // PARTS))  # a batch without images has no parts
    for start in range(0, len(image_ids), size):
        part = image_ids[start : start + size]
        new_batch(
            session,
            batch.cohort_id,
            batch.model_id,
            Image.id.in_(part),
            len(part),
            ImageChange.SPLIT,
            source_id=batch.source_id,
        )
