"""Batches in a worker's hands: claiming, completing and returning them.

Every function works in the caller's transaction. Each is safe to repeat, late or twice: a change is guarded
by the state that it starts from, and a holder's change by its lease.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import ScalarSelect, case, select, update
from sqlalchemy.orm import Session

from db.clock import database_now
from db.jobs.cohorts import cancel, lock_cohort
from db.jobs.duplicates import may_be_of_one_copy, promote_duplicates
from db.jobs.notifications import waiting
from db.jobs.problems import ImageProblem, SourceAway, Unfamiliar, WaitedTooLong
from db.jobs.sources import Backoff, delay_source, end_waits, root_of_earlier_version
from db.lease import Lease, claiming, new_lease, release
from db.models.predictions import Provenance, Screened, write_predictions
from db.models.registry import champion
from db.states import BatchState, CohortState, ImageState
from db.tables import Batch, Cohort, Image, Prediction, Source
from db.transitions import BatchChange, ImageChange, Transition, change
from db.trust.profile import profile_of


@dataclass(frozen=True, slots=True)
class ClaimedImage:
    """An image of a claimed batch."""

    image_id: int
    uri: str
    frame: int
    #: Size in bytes, time of change and SOP Instance UID when it was added; None if unknown.
    size: int | None = None
    modified: float | None = None
    instance_uid: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A batch that this worker has claimed."""

    batch_id: int
    cohort_id: int
    model_id: int
    #: The row of `source`; None for images that an earlier version added.
    source_id: int | None
    #: Where the images come from.
    source: str
    lease: Lease
    #: The number of this claim of the batch, from 1.
    attempt: int
    images: tuple[ClaimedImage, ...]


@dataclass(frozen=True, slots=True)
class NotScreened:
    """The problem that an image has instead of a prediction."""

    image_id: int
    problem: ImageProblem


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What a batch cost before its results were written."""

    #: Seconds in which the worker waited for decoded pictures.
    decode_seconds: float
    #: Seconds of forward passes.
    forward_seconds: float
    #: The peak of GPU memory of the worker's process; None on a CPU.
    gpu_memory_bytes: int | None


def claim(session: Session, batch_id: int, *, owner: str, lease_seconds: float) -> Claim | None:
    """Claim a queued batch; return None if it is not queued (claimed, done, cancelled or deleted)."""
    lease = new_lease(Batch, batch_id, seconds=lease_seconds)
    claimed = session.execute(
        claiming(
            lease, BatchChange.CLAIM, attempt=Batch.attempt + 1, claim_after=None, lease_owner=owner
        ).returning(Batch.cohort_id, Batch.model_id, Batch.source_id, Batch.attempt)
    ).one_or_none()
    if claimed is None:
        return None
    of_batch = Image.batch_id == batch_id
    change(session, Image, ImageChange.CLAIM, of_batch, attempts=Image.attempts + 1)
    rows = session.execute(
        select(Image.id, Image.uri, Image.frame, Image.size, Image.modified, Image.instance_uid)
        .where(of_batch, Image.state == ImageState.RUNNING)
        .order_by(Image.id)
    )
    images = tuple(ClaimedImage(*row) for row in rows)
    return Claim(
        batch_id=batch_id,
        cohort_id=claimed.cohort_id,
        model_id=claimed.model_id,
        source_id=claimed.source_id,
        source=_source(session, claimed.cohort_id, claimed.source_id, images),
        lease=lease,
        attempt=claimed.attempt,
        images=images,
    )


def _source(session: Session, cohort_id: int, source_id: int | None, images: Sequence[ClaimedImage]) -> str:
    if source_id is not None:
        return session.scalars(select(Source.uri).where(Source.id == source_id)).one()
    described = session.scalars(select(Cohort.source).where(Cohort.id == cohort_id)).one()
    return root_of_earlier_version(described, images[0].uri) if images else described


def most_urgent(session: Session, named: int = 0, *, than: int | None = None) -> int | None:
    """Return the batch that a worker should claim, or None if no batch waits.

    It is a batch of a cohort of the highest priority: the `named` one if that is among them, else the oldest.
    `than` is a cohort: only cohorts of a higher priority count.
    """
    query = (
        select(Batch.id)
        .join(Cohort, Cohort.id == Batch.cohort_id)
        .where(waiting(Batch), *(() if than is None else (Cohort.priority > _priority(than),)))
        .order_by(Cohort.priority.desc(), case((Batch.id == named, 0), else_=1), Batch.id)
        .limit(1)
    )
    return session.scalars(query).first()


def _priority(cohort_id: int) -> ScalarSelect[int]:
    return select(Cohort.priority).where(Cohort.id == cohort_id).scalar_subquery()


def complete(
    session: Session,
    claim: Claim,
    screened: Sequence[Screened],
    not_screened: Sequence[NotScreened],
    provenance: Provenance,
    effort: Effort,
) -> None:
    """Write a batch's predictions, its images' states and its own state, all or nothing.

    Raises LeaseLost if the lease is lost; the caller's transaction then rolls back.
    """
    start = time.monotonic()
    with_instance = {image.image_id for image in claim.images if image.instance_uid is not None}
    failed_copies = [
        one.image_id
        for one in not_screened
        if may_be_of_one_copy(one.problem) and one.image_id in with_instance
    ]
    # The cohort is locked first, as when another copy is added at this moment.
    cohort = lock_cohort(session, claim.cohort_id) if failed_copies else None
    release(session, claim.lease, BatchChange.COMPLETE, finished_at=database_now())
    if screened:
        write_predictions(session, claim.model_id, screened, provenance)
    _write_outcomes(session, claim.model_id, screened, not_screened)
    if cohort is not None and cohort.state is not CohortState.CANCELLED:
        promote_duplicates(session, cohort.id, failed_copies)
    session.execute(
        update(Cohort)
        .where(Cohort.id == claim.cohort_id, Cohort.waits_for.is_not(None))
        .values(waits_for=None, waits_since=None)
    )
    if claim.source_id is not None:
        end_waits(session, Source.id == claim.source_id)
    unfamiliar = sum(isinstance(one.problem, Unfamiliar) for one in not_screened)
    profile = profile_of(screened, unfamiliar=unfamiliar).as_json()
    cost = asdict(effort) | {"write_seconds": time.monotonic() - start}
    session.execute(update(Batch).where(Batch.id == claim.batch_id).values(profile=profile, **cost))


def was_completed(session: Session, claim: Claim, *, owner: str) -> bool:
    """Tell whether a batch was completed under this claim: the answer to a commit may have been lost."""
    query = select(Batch.state, Batch.lease_owner, Batch.attempt).where(Batch.id == claim.batch_id)
    return tuple(session.execute(query).one()) == (BatchState.DONE, owner, claim.attempt)


#: How a screened batch changes its images, by the state that they end in.
_OUTCOMES: dict[ImageState, Transition[ImageState]] = {
    one.to: one for one in (ImageChange.FINISH, ImageChange.SKIP, ImageChange.FAIL)
}


def _write_outcomes(
    session: Session, model_id: int, screened: Sequence[Screened], not_screened: Sequence[NotScreened]
) -> None:
    """Write the states of images, with one statement for each outcome: a trigger counts each statement."""
    of_prediction = (
        select(Prediction.input_digest)
        .where(Prediction.image_id == Image.id, Prediction.model_id == model_id)
        .scalar_subquery()
    )
    outcomes: dict[tuple[ImageState, str | None], list[int]] = defaultdict(list)
    for image in not_screened:
        outcomes[image.problem.state, image.problem.code].append(image.image_id)
    if screened:
        outcomes[ImageState.DONE, None] = [one.image_id for one in screened]
    for (state, problem), image_ids in outcomes.items():
        values: dict[str, Any] = {"problem": problem}
        if state is ImageState.DONE:
            values["digest"] = of_prediction
        change(session, Image, _OUTCOMES[state], Image.id.in_(image_ids), **values)


def requeue(session: Session, lease: Lease, *, backoff: Backoff | None = None) -> None:
    """Return a batch so that it can be claimed again: at once or, with a `backoff`, after a pause.

    This claim does not count towards the limit of attempts. If the batch's source is unavailable, no other
    batch of that source is claimed before the next try. If the cohort follows the champion and another model
    is champion by now, the images go into new batches. Images that have waited for too long fail. Images of a
    cohort that was cancelled meanwhile are skipped. Raises LeaseLost.
    """
    release(session, lease, BatchChange.GIVE_BACK, attempt=Batch.attempt - 1, notified_at=None)
    change(session, Image, ImageChange.REQUEUE, Image.batch_id == lease.row_id)
    batch = session.get_one(Batch, lease.row_id, populate_existing=True)
    cohort = lock_cohort(session, batch.cohort_id)
    if cohort.state is CohortState.CANCELLED:
        cancel(session, cohort)
    elif backoff is not None and backoff.code == SourceAway.code:
        delay_source(session, batch, cohort, backoff)
    elif backoff is not None:
        _delay(session, batch, cohort, backoff)


def _delay(session: Session, batch: Batch, cohort: Cohort, backoff: Backoff) -> None:
    """Let a batch wait until its model, a device or the decoders may be available, or fail its images."""
    now = session.scalars(select(database_now())).one()
    since = now if cohort.waits_since is None else cohort.waits_since
    cohort.waits_for, cohort.waits_since = backoff.code, since
    of_batch = Image.batch_id == batch.id
    if cohort.model_id is None and batch.model_id != champion(session).id:
        BatchChange.CANCEL.apply(batch)
        change(session, Image, ImageChange.UNDO_CUT, of_batch)
    elif now - since < backoff.limit_seconds:
        batch.claim_after = now + backoff.pause(now - since)
    else:
        BatchChange.TIME_OUT.apply(batch)
        change(
            session, Image, ImageChange.TIME_OUT, of_batch, Image.state == ImageState.QUEUED,
            problem=WaitedTooLong.code,
        )  # fmt: skip
