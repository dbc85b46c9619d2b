"""Cohorts: opening, counting, cancelling and retrying them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, CursorResult, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from db.audit.events import record
from db.clock import database_now
from db.errors import PneumoscreenError
from db.jobs.duplicates import skip_duplicates, take_over
from db.jobs.problems import Cancelled, FileChanged
from db.jobs.sources import found_again
from db.states import (
    UNFINISHED_INGEST,
    BatchState,
    CohortState,
    ImageState,
    IngestState,
)
from db.tables import Batch, Cohort, Image, Ingest, Model, Source
from db.text import is_text

#: What the columns hold.
LONGEST_NAME = 200
PRIORITIES = range(-(2**31), 2**31)

#: Shows a row as it is once its lock was had, and not as the session had read it before.
_FRESH = {"populate_existing": True}


class CohortNameInvalid(PneumoscreenError):
    """A cohort's name has 1 to 200 printable characters, and more than spaces. Choose another name."""

    code = "cohort-name-invalid"


class PriorityOutOfRange(PneumoscreenError):
    """A priority is a whole number between -2147483648 and 2147483647. Choose one of these."""

    code = "priority-out-of-range"


class CohortUnknown(PneumoscreenError):
    """There is no cohort of that name. `pneumoscreen status` lists them."""

    code = "cohort-unknown"


class CohortHasOtherModel(PneumoscreenError):
    """The cohort is screened with another model already. Submit under a new cohort name."""

    code = "cohort-has-other-model"


class CohortArchived(PneumoscreenError):
    """The cohort's rows are in an archive file that `audit` names. Read that, or submit under a new name."""

    code = "cohort-archived"


def check_name(name: str) -> None:
    """Raise CohortNameInvalid for a name that a terminal or a table would not show as it is."""
    if len(name) > LONGEST_NAME or not name.isprintable() or not name.strip():
        raise CohortNameInvalid


def find_cohort(session: Session, name: str) -> Cohort:
    """Return a cohort by name, or raise CohortUnknown."""
    if not is_text(name):
        raise CohortUnknown
    cohort = session.scalar(select(Cohort).where(Cohort.name == name))
    if cohort is None:
        raise CohortUnknown
    return cohort


def open_cohort(
    session: Session,
    name: str,
    *,
    source: str,
    priority: int | None = None,
    model: Model | None = None,
    actor: str | None = None,
) -> Cohort:
    """Return the cohort of that name, made if there is none, ready to take images in.

    Safe to repeat: submitting a source again adds what is new. Without a priority it keeps the one that it
    has. Raises CohortNameInvalid, PriorityOutOfRange, CohortHasOtherModel, CohortArchived.
    """
    if priority is not None and priority not in PRIORITIES:
        raise PriorityOutOfRange
    model_id = model.id if model is not None else None
    cohort = _find_locked(session, name) if is_text(name) else None
    if cohort is None:
        check_name(name)
        dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
        new = dialect.insert(Cohort).values(
            name=name, source=source, priority=priority or 0, model_id=model_id,
            state=CohortState.INGESTING, created_at=database_now(),
        )  # fmt: skip
        # Of two that open it at once, the second one finds the first one's.
        session.execute(new.on_conflict_do_nothing(index_elements=["name"]))
        cohort = _find_locked(session, name)
        assert cohort is not None  # noqa: S101  (for the type checker: cohorts are not deleted)
    if cohort.archived is not None:
        raise CohortArchived
    if model_id is not None and cohort.model_id != model_id:
        raise CohortHasOtherModel
    if priority is not None:
        cohort.priority = priority
    cohort.state = CohortState.INGESTING
    session.flush()
    record(session, "cohort.submit", f"cohort:{cohort.id}", actor=actor, priority=cohort.priority)
    return cohort


def _find_locked(session: Session, name: str) -> Cohort | None:
    query = select(Cohort).where(Cohort.name == name).with_for_update()
    return session.scalar(query, execution_options=_FRESH)


def close_ingest(session: Session, cohort_id: int) -> None:
    """Say that a cohort has all its images, unless a source of it is still to be walked to its end.

    A cohort cancelled meanwhile stays so.
    """
    cohort = lock_cohort(session, cohort_id)
    if cohort.state is CohortState.CANCELLED:
        return
    # What was taken in before duplicates did.
    take_over(session, cohort_id)
    unfinished = select(Ingest.id).where(Ingest.cohort_id == cohort_id, Ingest.state.in_(UNFINISHED_INGEST))
    if session.scalar(unfinished.limit(1)) is None:
        cohort.state = CohortState.READY


def lock_cohort(session: Session, cohort_id: int) -> Cohort:
    """Return a cohort that nobody else can cancel, retry, sweep or dispatch before this transaction ends."""
    query = select(Cohort).where(Cohort.id == cohort_id).with_for_update()
    return session.scalars(query, execution_options=_FRESH).one()


def lock_cohorts_of(session: Session, batches: ColumnElement[bool]) -> Sequence[Cohort]:
    """Lock the cohorts of these batches and return them, without those that somebody else has locked.

    It waits for nobody, so that one cohort holds up no other, and two who lock several never each other.
    """
    of_batches = Cohort.id.in_(select(Batch.cohort_id).where(batches))
    query = select(Cohort).where(of_batches).order_by(Cohort.id).with_for_update(skip_locked=True)
    return session.scalars(query, execution_options=_FRESH).all()


def cancel(session: Session, cohort: Cohort, *, actor: str | None = None) -> int:
    """Hand out nothing more of a cohort; return how many images that spares.

    Images that a worker holds are still finished: their batch is a matter of seconds. Safe to repeat.
    """
    cohort = lock_cohort(session, cohort.id)
    cohort.state = CohortState.CANCELLED
    session.execute(
        update(Ingest)
        .where(Ingest.cohort_id == cohort.id, Ingest.state.in_(UNFINISHED_INGEST))
        .values(state=IngestState.ENDED)
    )
    session.execute(
        update(Batch)
        .where(Batch.cohort_id == cohort.id, Batch.state == BatchState.QUEUED)
        .values(state=BatchState.CANCELLED)
    )
    spared = _move(
        session,
        cohort.id,
        Image.state.in_((ImageState.PENDING, ImageState.QUEUED)),
        state=ImageState.SKIPPED,
        problem=Cancelled.code,
        batch_id=None,
    )
    found_again(session, Source.cohort_id == cohort.id)
    record(session, "cohort.cancel", f"cohort:{cohort.id}", actor=actor, images=spared)
    return spared


def retry(session: Session, cohort: Cohort, *, actor: str | None = None) -> int:
    """Make a cohort's failed and cancelled images pending again; return how many there are.

    An image that has failed and of which another copy was screened since is a duplicate of that copy now.
    """
    cohort = lock_cohort(session, cohort.id)
    if cohort.state is CohortState.CANCELLED:
        cohort.state = CohortState.READY
    # Not after a pause: whoever asks for it has seen to what was missing.
    cohort.waits_for = cohort.waits_since = None
    found_again(session, Source.cohort_id == cohort.id)
    # What has changed on purpose is taken as it is now.
    _move(session, cohort.id, Image.problem == FileChanged.code, size=None, modified=None)
    again = _move(
        session,
        cohort.id,
        or_(Image.state == ImageState.FAILED, Image.problem == Cancelled.code),
        state=ImageState.PENDING,
        problem=None,
        batch_id=None,
    )
    again -= skip_duplicates(session, cohort.id)
    again += take_over(session, cohort.id)
    record(session, "cohort.retry", f"cohort:{cohort.id}", actor=actor, images=again)
    return again


def _move(session: Session, cohort_id: int, which: ColumnElement[bool], **values: Any) -> int:
    result = session.execute(update(Image).where(Image.cohort_id == cohort_id, which).values(**values))
    assert isinstance(result, CursorResult)  # noqa: S101  (for the type checker: updates always give one)
    return result.rowcount
