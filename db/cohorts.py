"""Cohorts: opening, counting, cancelling and retrying them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, CursorResult, func, or_, select, update
from sqlalchemy.orm import Session

from db.errors import PneumoscreenError
from db.events import record
from db.problems import Cancelled, FileChanged
from db.sources import found_again
from db.states import TERMINAL, UNFINISHED, BatchState, CohortState, ImageState
from db.tables import Batch, Cohort, Image, Model, Source

#: Shows a row as it is once its lock was had, and not as the session had read it before.
_FRESH = {"populate_existing": True}


class CohortUnknown(PneumoscreenError):
    """There is no cohort of that name. `pneumoscreen status` lists them."""

    code = "cohort-unknown"


class CohortHasOtherModel(PneumoscreenError):
    """The cohort is screened with another model already. Submit under a new cohort name."""

    code = "cohort-has-other-model"


class CohortArchived(PneumoscreenError):
    """The cohort's rows were moved to an archive, a Parquet file. Read that, or submit under a new name."""

    code = "cohort-archived"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a cohort has come. The states always add up to `total`."""

    cohort_id: int
    name: str
    state: CohortState
    priority: int
    total: int
    pending: int
    queued: int
    running: int
    done: int
    skipped: int
    failed: int
    #: Number of images per problem code.
    problems: dict[str, int]
    #: Why its batches have to wait: the code of an error, as `source-away` or `model-missing`.
    waits_for: str | None = None
    #: Since when, in seconds since 1970 UTC; None if it does not wait, or an earlier version found it.
    waits_since: float | None = None
    #: Whether its rows are in an archive, and no longer here.
    archived: bool = False

    @property
    def ended(self) -> int:
        """Images in a terminal state."""
        return self.done + self.skipped + self.failed

    @property
    def finished(self) -> bool:
        """Whether everything has been taken in and has ended."""
        return self.state is not CohortState.INGESTING and self.ended == self.total


def find_cohort(session: Session, name: str) -> Cohort:
    """Return a cohort by name, or raise CohortUnknown."""
    cohort = session.scalar(select(Cohort).where(Cohort.name == name))
    if cohort is None:
        raise CohortUnknown
    return cohort


def open_cohort(
    session: Session, name: str, *, source: str, priority: int = 0, model: Model | None = None
) -> Cohort:
    """Return the cohort of that name, made if there is none, ready to take images in.

    Safe to repeat: submitting a source again adds what is new. Raises CohortHasOtherModel, CohortArchived.
    """
    cohort = session.scalar(
        select(Cohort).where(Cohort.name == name).with_for_update(), execution_options=_FRESH
    )
    if cohort is not None and cohort.archived is not None:
        raise CohortArchived
    model_id = model.id if model is not None else None
    if cohort is None:
        cohort = Cohort(
            name=name, source=source, priority=priority, model_id=model_id, state=CohortState.INGESTING
        )
        session.add(cohort)
    elif model_id is not None and cohort.model_id != model_id:
        raise CohortHasOtherModel
    cohort.priority = priority
    cohort.state = CohortState.INGESTING
    session.flush()
    record(session, "cohort.submit", f"cohort:{cohort.id}", priority=priority)
    return cohort


def close_ingest(session: Session, cohort_id: int) -> None:
    """Say that a cohort's source has been walked to its end; a cohort cancelled meanwhile stays so."""
    session.execute(
        update(Cohort)
        .where(Cohort.id == cohort_id, Cohort.state == CohortState.INGESTING)
        .values(state=CohortState.READY)
    )


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


def cancel(session: Session, cohort: Cohort) -> int:
    """Hand out nothing more of a cohort; return how many images that spares.

    Images that a worker holds are still finished: their batch is a matter of seconds. Safe to repeat.
    """
    cohort = lock_cohort(session, cohort.id)
    cohort.state = CohortState.CANCELLED
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
    record(session, "cohort.cancel", f"cohort:{cohort.id}", images=spared)
    return spared


def retry(session: Session, cohort: Cohort) -> int:
    """Make a cohort's failed and cancelled images pending again; return how many there were."""
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
    record(session, "cohort.retry", f"cohort:{cohort.id}", images=again)
    return again


def _move(session: Session, cohort_id: int, which: ColumnElement[bool], **values: Any) -> int:
    result = session.execute(update(Image).where(Image.cohort_id == cohort_id, which).values(**values))
    assert isinstance(result, CursorResult)  # noqa: S101  (for the type checker: updates always give one)
    return result.rowcount


def progress(session: Session, names: Sequence[str] | None = None) -> list[Progress]:
    """Count the images of some or all cohorts by state, oldest cohort first.

    Raises CohortUnknown where a name is not a cohort's.
    """
    query = select(Cohort).order_by(Cohort.id)
    if names is not None:
        query = query.where(Cohort.name.in_(names))
    cohorts = session.scalars(query).all()
    if names is not None and len(cohorts) < len(set(names)):
        raise CohortUnknown
    return [_count(session, cohort) for cohort in cohorts]


def _count(session: Session, cohort: Cohort) -> Progress:
    if cohort.archived is not None:
        return Progress(**cohort.archived | {"archived": True})
    rows = session.execute(
        select(Image.state, Image.problem, func.count())
        .where(Image.cohort_id == cohort.id)
        .group_by(Image.state, Image.problem)
    ).all()
    states = dict.fromkeys(ImageState, 0)
    problems: dict[str, int] = {}
    for state, problem, count in rows:
        states[state] += count
        if problem is not None:
            problems[problem] = count
    waits_for, since = _wait(session, cohort) if any(states[one] for one in UNFINISHED) else (None, None)
    return Progress(
        cohort_id=cohort.id,
        name=cohort.name,
        state=cohort.state,
        priority=cohort.priority,
        total=sum(states.values()),
        problems=dict(sorted(problems.items())),
        archived=False,
        waits_for=waits_for,
        waits_since=since,
        **{state.value: count for state, count in states.items()},
    )


def _wait(session: Session, cohort: Cohort) -> tuple[str | None, float | None]:
    """Return why a cohort or one of its sources waits, and since when: of several, since the longest."""
    if cohort.waits_for is not None:
        return cohort.waits_for, cohort.waits_since
    waiting = select(Source).where(Source.cohort_id == cohort.id, Source.waits_for.is_not(None))
    source = session.scalars(waiting.order_by(Source.waits_since).limit(1)).first()
    return (None, None) if source is None else (source.waits_for, source.waits_since)


def is_finished(session: Session, cohort_id: int) -> bool:
    """Tell whether a cohort has been taken in and all its images have ended; cheaper than counting."""
    cohort = session.get_one(Cohort, cohort_id)
    if cohort.state is CohortState.INGESTING:
        return False
    unfinished = select(Image.id).where(Image.cohort_id == cohort_id, Image.state.not_in(TERMINAL)).limit(1)
    return session.scalar(unfinished) is None
