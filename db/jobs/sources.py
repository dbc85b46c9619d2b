"""Sources of cohorts: where images were taken in from, and which of them are waited for.

Every function here works in the caller's transaction and is safe to repeat.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Exists, and_, exists, literal, null, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import InstrumentedAttribute, Session

from db.clock import database_now
from db.jobs.problems import SourceAway
from db.states import BatchState, ImageState
from db.tables import Batch, Cohort, Image, Source

#: The longest pause between two tries of what is waited for, in first pauses: it grows as the wait does.
_LONGEST_PAUSE = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Why a batch cannot be screened now, and how long that is borne."""

    #: The code of the error that the worker met.
    code: str
    #: Seconds before the next try, at first.
    again_seconds: float
    #: Seconds after which images that waited fail.
    most_seconds: float

    def pause(self, waited_seconds: float) -> float:
        """Return the seconds before the next try: as long as the wait has lasted, within limits."""
        return min(max(waited_seconds, self.again_seconds), _LONGEST_PAUSE * self.again_seconds)


def take_source(session: Session, cohort_id: int, uri: str) -> int:
    """Return the row id of a cohort's source, added if the cohort does not have it yet."""
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    session.execute(
        dialect.insert(Source).on_conflict_do_nothing(),
        [{"cohort_id": cohort_id, "uri": uri}],
    )
    return session.scalars(select(Source.id).where(Source.cohort_id == cohort_id, Source.uri == uri)).one()


def is_pending(
    cohort_id: InstrumentedAttribute[int] | int, source_id: InstrumentedAttribute[int] | int | None
) -> tuple[ColumnElement[bool], ...]:
    """Match a source's pending images; without a source, those of an earlier version."""
    of_source = Image.source_id.is_(null()) if source_id is None else Image.source_id == source_id
    # The state as a literal: the databases use the index of pending images for nothing else.
    pending = Image.state == literal(ImageState.PENDING, Image.state.type, literal_execute=True)
    return Image.cohort_id == cohort_id, of_source, pending


def _any_pending(source_id: InstrumentedAttribute[int] | None) -> Exists:
    return exists().where(*is_pending(Cohort.id, source_id)).correlate(Cohort, Source)


def has_pending(*, waiting: bool) -> ColumnElement[bool]:
    """Match cohorts with pending images of sources that are there, or of `waiting` ones to be tried now."""
    if waiting:
        return exists().where(Source.cohort_id == Cohort.id, _is_due(), _any_pending(Source.id))
    there = exists().where(Source.cohort_id == Cohort.id, Source.waits_for.is_(None), _any_pending(Source.id))
    return or_(_any_pending(None), there)


def sources_to_cut(session: Session, cohort_id: int) -> list[int | None]:
    """Return a cohort's sources that nothing is known to be wrong with and that have pending images."""
    of_earlier_versions = select(Image.id).where(*is_pending(cohort_id, None)).limit(1)
    there = select(Source.id).join(Cohort).where(Source.cohort_id == cohort_id, Source.waits_for.is_(None))
    found: list[int | None] = [] if session.scalar(of_earlier_versions) is None else [None]
    return found + list(session.scalars(there.where(_any_pending(Source.id)).order_by(Source.id)))


def sources_to_try(session: Session, cohort_id: int) -> list[int]:
    """Return a cohort's sources that are waited for, whose time has come and that no batch tries now."""
    tried = exists().where(
        Batch.cohort_id == cohort_id,
        Batch.state.in_((BatchState.QUEUED, BatchState.RUNNING)),
        Batch.source_id == Source.id,
    )
    query = select(Source.id).join(Cohort).where(Source.cohort_id == cohort_id, _is_due(), ~tried)
    return list(session.scalars(query.where(_any_pending(Source.id)).order_by(Source.id)))


def _is_due() -> ColumnElement[bool]:
    return Source.waits_for.is_not(None) & or_(Source.try_at.is_(None), Source.try_at <= database_now())


def wait_for_source(session: Session, batch: Batch, cohort: Cohort, wait: Wait) -> None:
    """Hand nothing of a batch's source out before the next try; fail its images if that took too long.

    `cohort` is locked. Batches of the source that nobody holds are dissolved: other sources get their places.
    """
    source_id = batch.source_id or _adopt(session, batch, cohort)
    source = session.get_one(Source, source_id, populate_existing=True)
    now = session.scalars(select(database_now())).one()
    since = now if source.waits_since is None else source.waits_since
    dissolved = session.scalars(
        update(Batch)
        .where(Batch.cohort_id == cohort.id, Batch.source_id == source.id, Batch.state == BatchState.QUEUED)
        .values(state=BatchState.CANCELLED)
        .returning(Batch.id)
        .execution_options(synchronize_session=False)
    ).all()
    held_by_nobody = Image.batch_id.in_(dissolved), Image.state == ImageState.QUEUED
    session.execute(
        update(Image)
        .where(*held_by_nobody)
        .values(state=ImageState.PENDING)
        .execution_options(synchronize_session=False)
    )
    if now - since < wait.most_seconds:
        source.waits_for, source.waits_since = wait.code, since
        source.try_at = now + wait.pause(now - since)
        return
    session.execute(
        update(Image)
        .where(*is_pending(cohort.id, source.id))
        .values(state=ImageState.FAILED, problem=SourceAway.code)
        .execution_options(synchronize_session=False)
    )
    source.waits_for = source.waits_since = source.try_at = None


def root_of_earlier_version(described: str, uri: str) -> str:
    """Return the source of an image that an earlier version took in: the cohort's, or the image's folder."""
    return described if uri.startswith(described.rstrip("/") + "/") else uri.rpartition("/")[0] or "/"


def _adopt(session: Session, batch: Batch, cohort: Cohort) -> int:
    """Put what an earlier version took in from the source of a batch under that source; return it."""
    uri = session.scalars(select(Image.uri).where(Image.batch_id == batch.id).limit(1)).one()
    root = root_of_earlier_version(cohort.source, uri)
    source_id = take_source(session, cohort.id, root)
    of_source = or_(
        Image.batch_id == batch.id,
        and_(
            *is_pending(cohort.id, None),
            Image.uri.startswith(root.rstrip("/") + "/", autoescape=True),
        ),
    )
    for table, which in ((Image, of_source), (Batch, Batch.id == batch.id)):
        session.execute(
            update(table)
            .where(which)
            .values(source_id=source_id)
            .execution_options(synchronize_session=False)
        )
    return source_id


def found_again(session: Session, *which: ColumnElement[bool]) -> None:
    """Wait for these sources no more."""
    session.execute(
        update(Source)
        .where(Source.waits_for.is_not(None), *which)
        .values(waits_for=None, waits_since=None, try_at=None)
        .execution_options(synchronize_session=False)
    )
