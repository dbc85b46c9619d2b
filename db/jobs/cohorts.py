"""Cohorts: opening, locking, cancelling and retrying them."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, or_, select, update
from sqlalchemy.orm import Session

from db.audit.events import record
from db.clock import database_now
from db.engine import upsert
from db.errors import PneumoscreenError
from db.jobs.duplicates import promote_duplicates, skip_duplicates
from db.jobs.problems import Cancelled, FileChanged, Unfamiliar
from db.jobs.sources import end_waits
from db.states import UNFINISHED, UNFINISHED_INGEST, CohortState, ImageState
from db.tables import Batch, Cohort, Image, Ingest, Model, Source
from db.text import is_text
from db.transitions import BatchChange, CohortChange, ImageChange, IngestChange, change

#: The limits of the columns.
LONGEST_NAME = 200
PRIORITIES = range(-(2**31), 2**31)

#: Reads a row again once it is locked: the session may have read an older state.
_FRESH = {"populate_existing": True}


class CohortNameInvalid(PneumoscreenError):
    """A cohort's name needs 1 to 200 printable characters that are not all spaces. Choose another name."""

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
    """Return the cohort of that name, open for images; it is created if there is none.

    Safe to repeat: submitting a source again adds its new images. Without a priority an existing cohort keeps
    its own. Raises CohortNameInvalid, PriorityOutOfRange, CohortHasOtherModel, CohortArchived.
    """
    if priority is not None and priority not in PRIORITIES:
        raise PriorityOutOfRange
    model_id = model.id if model is not None else None
    cohort = _find_locked(session, name) if is_text(name) else None
    if cohort is None:
        check_name(name)
        new = upsert(session, Cohort).values(
            name=name, source=source, priority=priority or 0, model_id=model_id,
            state=CohortChange.OPEN.to, created_at=database_now(),
        )  # fmt: skip
        # If two processes open it at once, the second one finds the row of the first.
        session.execute(new.on_conflict_do_nothing(index_elements=["name"]))
        cohort = _find_locked(session, name)
        assert cohort is not None  # noqa: S101  (for the type checker: cohorts are not deleted)
    if cohort.archived is not None:
        raise CohortArchived
    if model_id is not None and cohort.model_id != model_id:
        raise CohortHasOtherModel
    if priority is not None:
        cohort.priority = priority
    CohortChange.SUBMIT.apply(cohort)
    session.flush()
    record(session, "cohort.submit", f"cohort:{cohort.id}", actor=actor, priority=cohort.priority)
    return cohort


def _find_locked(session: Session, name: str) -> Cohort | None:
    query = select(Cohort).where(Cohort.name == name).with_for_update()
    return session.scalar(query, execution_options=_FRESH)


def mark_ready(session: Session, cohort_id: int) -> None:
    """Note that a cohort has all its images, unless one of its sources was not read to its end.

    A cohort that was cancelled meanwhile stays cancelled.
    """
    cohort = lock_cohort(session, cohort_id)
    if cohort.state is CohortState.CANCELLED:
        return
    # A copy may have failed before its duplicates were added.
    promote_duplicates(session, cohort_id)
    unfinished = select(Ingest.id).where(Ingest.cohort_id == cohort_id, Ingest.state.in_(UNFINISHED_INGEST))
    if session.scalar(unfinished.limit(1)) is None:
        CohortChange.READY.apply(cohort)


def lock_cohort(session: Session, cohort_id: int) -> Cohort:
    """Lock a cohort: nobody else can cancel, retry, sweep or dispatch it before this transaction ends."""
    query = select(Cohort).where(Cohort.id == cohort_id).with_for_update()
    return session.scalars(query, execution_options=_FRESH).one()


def lock_cohorts_of(session: Session, batches: ColumnElement[bool]) -> Sequence[Cohort]:
    """Lock the cohorts of these batches and return them, without those that somebody else has locked.

    It does not wait for a lock, so that one cohort delays no other and no deadlock is possible.
    """
    of_batches = Cohort.id.in_(select(Batch.cohort_id).where(batches))
    query = select(Cohort).where(of_batches).order_by(Cohort.id).with_for_update(skip_locked=True)
    return session.scalars(query, execution_options=_FRESH).all()


def cancel(session: Session, cohort: Cohort, *, actor: str | None = None) -> int:
    """Cancel a cohort; return how many images are skipped for it.

    Images that a worker has claimed are still screened, because their batch ends in seconds. A cohort that is
    finished stays finished, and no event is recorded. Safe to repeat.
    """
    cohort = lock_cohort(session, cohort.id)
    if _is_finished(session, cohort):
        return 0
    CohortChange.CANCEL.apply(cohort)
    change(session, Ingest, IngestChange.GIVE_UP, Ingest.cohort_id == cohort.id)
    change(session, Batch, BatchChange.CANCEL, Batch.cohort_id == cohort.id)
    of_cohort = Image.cohort_id == cohort.id
    skipped = change(session, Image, ImageChange.CANCEL, of_cohort, problem=Cancelled.code, batch_id=None)
    end_waits(session, Source.cohort_id == cohort.id)
    record(session, "cohort.cancel", f"cohort:{cohort.id}", actor=actor, images=skipped)
    return skipped


def _is_finished(session: Session, cohort: Cohort) -> bool:
    """Tell whether every image of a cohort has been added and has ended."""
    left = select(Image.id).where(Image.cohort_id == cohort.id, Image.state.in_(UNFINISHED)).limit(1)
    return cohort.state is CohortState.READY and session.scalar(left) is None


def retry(session: Session, cohort: Cohort, *, actor: str | None = None) -> int:
    """Make a cohort's failed, cancelled and unfamiliar images pending again; return how many there are.

    A failed image becomes a duplicate if another copy of it was screened meanwhile.
    """
    cohort = lock_cohort(session, cohort.id)
    if cohort.state is CohortState.CANCELLED:
        CohortChange.RETRY.apply(cohort)
    # Without a pause: the user has fixed what was unavailable.
    cohort.waits_for = cohort.waits_since = None
    end_waits(session, Source.cohort_id == cohort.id)
    of_cohort = Image.cohort_id == cohort.id
    # A file that was changed is accepted as it is now.
    session.execute(
        update(Image)
        .where(of_cohort, Image.problem == FileChanged.code)
        .values(size=None, modified=None)
        .execution_options(synchronize_session=False)
    )
    # Another model or setting may give unfamiliar ones a prediction.
    skipped = Image.problem.in_((Cancelled.code, Unfamiliar.code))
    to_retry = or_(Image.state == ImageState.FAILED, skipped)
    again = change(session, Image, ImageChange.RETRY, of_cohort, to_retry, problem=None, batch_id=None)
    again -= skip_duplicates(session, cohort.id)
    again += promote_duplicates(session, cohort.id)
    record(session, "cohort.retry", f"cohort:{cohort.id}", actor=actor, images=again)
    return again
