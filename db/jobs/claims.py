"""Batches under a lease: claiming, keeping, finishing and losing them.

Every function here works in the caller's transaction and is safe to repeat, late or twice: what it
changes is guarded by the state, and for a holder by the lease token, that it expects to find.
"""

from __future__ import annotations

import secrets
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import ColumnElement, CursorResult, and_, case, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from db.clock import database_now
from db.errors import PneumoscreenError
from db.jobs.batches import can_be_claimed, new_batch
from db.jobs.cohorts import cancel, lock_cohort, lock_cohorts_of
from db.jobs.duplicates import gives_place_up, take_over
from db.jobs.problems import Cancelled, ImageProblem, SourceAway, WaitedTooLong, WorkerLost
from db.jobs.sources import Wait, found_again, root_of_earlier_version, wait_for_source
from db.models.registry import champion
from db.states import BatchState, CohortState, ImageState
from db.tables import Batch, Cohort, Image, Prediction, Source

#: Claims that a batch may lose before it is taken apart. Two, so that one power cut splits nothing.
ATTEMPTS = 2

#: Parts that a lost batch is split into: 256 images come down to the culprit in three splits.
PARTS = 8


class LeaseLost(PneumoscreenError):
    """The batch was taken away from this worker, which held it for too long without a sign of life."""

    code = "lease-lost"


@dataclass(frozen=True, slots=True)
class Item:
    """An image to screen."""

    image_id: int
    uri: str
    frame: int
    #: Bytes, time of the last change and SOP Instance UID as it was taken in; None where it is not known.
    size: int | None = None
    modified: float | None = None
    instance_uid: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A batch that this worker holds."""

    batch_id: int
    cohort_id: int
    model_id: int
    #: Where the images come from; None for those of an earlier version, which come from `source`.
    source_id: int | None
    source: str
    #: Shown with every write; whoever claims next has another one.
    token: str
    #: Which claim of the batch it is, counted from 1.
    attempt: int
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Screened:
    """An image's prediction."""

    image_id: int
    #: P(PNEUMONIA).
    probability: float
    label: str
    #: Number format that the probability was computed in.
    precision: str
    #: SHA-256 of the file's bytes.
    input_digest: str
    #: Probability by type of pneumonia, from a model that tells types apart.
    types: dict[str, float] | None = None


@dataclass(frozen=True, slots=True)
class NotScreened:
    """An image's problem."""

    image_id: int
    problem: ImageProblem


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What all predictions of a batch have in common."""

    threshold: float
    runtime: str
    preprocessing: str
    software: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What a batch took so far."""

    #: Seconds that the worker waited for decoded pictures.
    decode_seconds: float
    #: Seconds of forward passes.
    forward_seconds: float
    #: The most that its process has held of its GPU's memory; None on a CPU.
    gpu_memory_bytes: int | None


def claim(session: Session, batch_id: int, *, owner: str, lease_seconds: float) -> Claim | None:
    """Take a queued batch, or return None where there is nothing to take (claimed, done, cancelled, gone)."""
    token = secrets.token_hex(16)
    taken = session.execute(
        update(Batch)
        .where(Batch.id == batch_id, Batch.state == BatchState.QUEUED)
        .values(
            state=BatchState.RUNNING,
            attempt=Batch.attempt + 1,
            claim_after=None,
            lease_token=token,
            lease_owner=owner,
            lease_until=database_now() + lease_seconds,
        )
        .returning(Batch.cohort_id, Batch.model_id, Batch.source_id, Batch.attempt)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if taken is None:
        return None
    _move_images(
        session,
        batch_id,
        Image.state == ImageState.QUEUED,
        state=ImageState.RUNNING,
        attempts=Image.attempts + 1,
    )
    rows = session.execute(
        select(Image.id, Image.uri, Image.frame, Image.size, Image.modified, Image.instance_uid)
        .where(Image.batch_id == batch_id, Image.state == ImageState.RUNNING)
        .order_by(Image.id)
    )
    items = tuple(Item(*row) for row in rows)
    return Claim(
        batch_id=batch_id,
        cohort_id=taken.cohort_id,
        model_id=taken.model_id,
        source_id=taken.source_id,
        source=_source(session, taken.cohort_id, taken.source_id, items),
        token=token,
        attempt=taken.attempt,
        items=items,
    )


def _source(session: Session, cohort_id: int, source_id: int | None, items: Sequence[Item]) -> str:
    if source_id is not None:
        return session.scalars(select(Source.uri).where(Source.id == source_id)).one()
    described = session.scalars(select(Cohort.source).where(Cohort.id == cohort_id)).one()
    return root_of_earlier_version(described, items[0].uri) if items else described


def most_urgent(session: Session, named: int) -> int | None:
    """Return the batch that a worker is to claim, or None if none is queued.

    It is one of a cohort of the highest priority: the `named` one if it is among them, else the oldest.
    """
    query = (
        select(Batch.id)
        .join(Cohort, Cohort.id == Batch.cohort_id)
        .where(Batch.state == BatchState.QUEUED, can_be_claimed())
        .order_by(Cohort.priority.desc(), case((Batch.id == named, 0), else_=1), Batch.id)
        .limit(1)
    )
    return session.scalars(query).first()


def keep(session: Session, batch_id: int, token: str, *, lease_seconds: float) -> None:
    """Put off the end of a lease. Raises LeaseLost where it is no longer held."""
    _as_holder(session, batch_id, token, lease_until=database_now() + lease_seconds)


def complete(
    session: Session,
    claimed: Claim,
    screened: Sequence[Screened],
    not_screened: Sequence[NotScreened],
    provenance: Provenance,
    effort: Effort,
) -> None:
    """Write a batch's predictions, the states of its images and its own, all or nothing.

    Raises LeaseLost, and the caller's transaction rolls back, where the lease is no longer held.
    """
    start = time.monotonic()
    instances = {item.image_id for item in claimed.items if item.instance_uid is not None}
    gave_up = [
        one.image_id for one in not_screened if gives_place_up(one.problem) and one.image_id in instances
    ]
    # The cohort first, as whoever takes another copy in at this moment does.
    cohort = lock_cohort(session, claimed.cohort_id) if gave_up else None
    _as_holder(
        session,
        claimed.batch_id,
        claimed.token,
        state=BatchState.DONE,
        lease_token=None,
        lease_until=None,
        finished_at=database_now(),
    )
    if screened:
        _upsert_predictions(session, claimed.model_id, screened, provenance)
    _note_outcomes(session, claimed.model_id, screened, not_screened)
    if cohort is not None and cohort.state is not CohortState.CANCELLED:
        take_over(session, cohort.id, gave_up)
    session.execute(
        update(Cohort)
        .where(Cohort.id == claimed.cohort_id, Cohort.waits_for.is_not(None))
        .values(waits_for=None, waits_since=None)
    )
    if claimed.source_id is not None:
        found_again(session, Source.id == claimed.source_id)
    took = asdict(effort) | {"write_seconds": time.monotonic() - start}
    session.execute(update(Batch).where(Batch.id == claimed.batch_id).values(**took))


def ended_here(session: Session, claimed: Claim, *, owner: str) -> bool:
    """Whether a batch was completed under this claim, for whoever got no answer to the commit of it."""
    query = select(Batch.state, Batch.lease_owner, Batch.attempt).where(Batch.id == claimed.batch_id)
    return tuple(session.execute(query).one()) == (BatchState.DONE, owner, claimed.attempt)


def _note_outcomes(
    session: Session, model_id: int, screened: Sequence[Screened], not_screened: Sequence[NotScreened]
) -> None:
    """Write the states of images: one statement for all that ended alike, as each is counted by itself."""
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
        values: dict[str, Any] = {"state": state, "problem": problem}
        if state is ImageState.DONE:
            values["digest"] = of_prediction
        session.execute(
            update(Image)
            .where(Image.id.in_(image_ids))
            .values(**values)
            .execution_options(synchronize_session=False)
        )


def _upsert_predictions(
    session: Session, model_id: int, screened: Sequence[Screened], provenance: Provenance
) -> None:
    """Write predictions; one that is there already for the same image and model is replaced."""
    rows = [
        {
            "image_id": one.image_id,
            "model_id": model_id,
            "probability": one.probability,
            "label": one.label,
            "input_digest": one.input_digest,
            "threshold": provenance.threshold,
            "types": one.types,
            "precision": one.precision,
            "runtime": provenance.runtime,
            "preprocessing": provenance.preprocessing,
            "software": provenance.software,
        }
        for one in screened
    ]
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    insert = dialect.insert(Prediction)
    replaced = {name: insert.excluded[name] for name in rows[0] if name not in ("image_id", "model_id")}
    upsert = insert.on_conflict_do_update(
        index_elements=["image_id", "model_id"], set_=replaced | {"created_at": database_now()}
    )
    session.execute(upsert, rows)


def give_back(session: Session, batch_id: int, token: str, *, wait: Wait | None = None) -> None:
    """Let the batch be claimed again: at once or, if something it needs is unavailable, after a `wait`.

    The claim is not counted against the batch. If its source is unavailable, nothing of that is handed out
    before the next try. If the cohort follows the champion and there is another one by now, the batch's
    images go into new batches. Images that have waited for too long fail; those of a cohort that was
    cancelled meanwhile are skipped. Raises LeaseLost.
    """
    _as_holder(
        session,
        batch_id,
        token,
        state=BatchState.QUEUED,
        attempt=Batch.attempt - 1,
        lease_token=None,
        lease_until=None,
        rung_at=None,
    )
    _move_images(session, batch_id, Image.state == ImageState.RUNNING, state=ImageState.QUEUED)
    batch = session.get_one(Batch, batch_id, populate_existing=True)
    cohort = lock_cohort(session, batch.cohort_id)
    if cohort.state is CohortState.CANCELLED:
        cancel(session, cohort)
    elif wait is not None and wait.code == SourceAway.code:
        wait_for_source(session, batch, cohort, wait)
    elif wait is not None:
        _wait_for_means(session, batch, cohort, wait)


def _wait_for_means(session: Session, batch: Batch, cohort: Cohort, wait: Wait) -> None:
    """Keep a batch until its model, a device or decoders may be there, or fail its images."""
    now = session.scalars(select(database_now())).one()
    since = now if cohort.waits_since is None else cohort.waits_since
    cohort.waits_for, cohort.waits_since = wait.code, since
    queued = Image.state == ImageState.QUEUED
    if cohort.model_id is None and batch.model_id != champion(session).id:
        batch.state = BatchState.CANCELLED
        _move_images(session, batch.id, queued, state=ImageState.PENDING)
    elif now - since < wait.most_seconds:
        batch.claim_after = now + wait.pause(now - since)
    else:
        batch.state = BatchState.DONE
        _move_images(session, batch.id, queued, state=ImageState.FAILED, problem=WaitedTooLong.code)


def expire(session: Session) -> int:
    """Take every batch whose lease has ended away from its holder; return how many there were.

    The first time it waits for another worker. Lost again, it is split, so that an image that kills
    workers comes to stand alone; alone and lost again, it fails as `worker-lost`. A batch of a cohort that
    somebody cancels or retries at this moment is left to the next sweep.
    """
    ended = and_(Batch.state == BatchState.RUNNING, Batch.lease_until < database_now())
    # The cohorts first, as whoever cancels one does: the two would not see each other's changes otherwise.
    cohorts = {cohort.id: cohort for cohort in lock_cohorts_of(session, ended)}
    expired = session.scalars(
        select(Batch)
        .where(ended, Batch.cohort_id.in_(cohorts))
        .order_by(Batch.id)
        .with_for_update(skip_locked=True)
    ).all()
    for batch in expired:
        _lose(session, batch, cohorts[batch.cohort_id])
    return len(expired)


def any_lapsed(session: Session) -> bool:
    """Tell whether leases have ended that `expire` could not take away: somebody has locked their batches."""
    ended = select(Batch.id).where(Batch.state == BatchState.RUNNING, Batch.lease_until < database_now())
    return session.scalar(ended.limit(1)) is not None


def _lose(session: Session, batch: Batch, cohort: Cohort) -> None:
    batch.lost += 1
    held = Image.state == ImageState.RUNNING
    if cohort.state is CohortState.CANCELLED:
        _release(session, batch, BatchState.CANCELLED)
        _move_images(session, batch.id, held, state=ImageState.SKIPPED, problem=Cancelled.code)
    elif batch.attempt < ATTEMPTS:
        _release(session, batch, BatchState.QUEUED)
        _move_images(session, batch.id, held, state=ImageState.QUEUED)
    elif batch.size > 1:
        _release(session, batch, BatchState.SPLIT)
        _split(session, batch)
    else:
        _release(session, batch, BatchState.DONE)
        _move_images(session, batch.id, held, state=ImageState.FAILED, problem=WorkerLost.code)
        lost = session.scalars(select(Image.id).where(Image.batch_id == batch.id)).all()
        take_over(session, cohort.id, lost)


def _release(session: Session, batch: Batch, state: BatchState) -> None:
    batch.state, batch.lease_token, batch.lease_until, batch.rung_at = state, None, None, None
    session.flush()


def _split(session: Session, batch: Batch) -> None:
    query = select(Image.id).where(Image.batch_id == batch.id, Image.state == ImageState.RUNNING)
    image_ids = session.scalars(query.order_by(Image.id)).all()
    size = max(1, -(-len(image_ids) // PARTS))  # a batch without images has no parts
    for start in range(0, len(image_ids), size):
        part = image_ids[start : start + size]
        new_batch(session, batch.cohort_id, batch.model_id, part, source_id=batch.source_id)


def _as_holder(session: Session, batch_id: int, token: str, **values: Any) -> None:
    """Change a batch that is held under this token, or raise LeaseLost."""
    result = session.execute(
        update(Batch)
        .where(Batch.id == batch_id, Batch.state == BatchState.RUNNING, Batch.lease_token == token)
        .values(**values)
        .execution_options(synchronize_session=False)
    )
    assert isinstance(result, CursorResult)  # noqa: S101  (for the type checker: updates always give one)
    if result.rowcount != 1:
        raise LeaseLost


def _move_images(session: Session, batch_id: int, which: ColumnElement[bool], **values: Any) -> None:
    session.execute(
        update(Image)
        .where(Image.batch_id == batch_id, which)
        .values(**values)
        .execution_options(synchronize_session=False)
    )
