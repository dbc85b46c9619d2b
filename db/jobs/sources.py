"""Sources of cohorts: where images come from, and which sources are unavailable.

Every function works in the caller's transaction and is safe to repeat.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Exists, and_, exists, literal, null, or_, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from db.clock import database_now
from db.engine import insert_new
from db.jobs.problems import SourceAway
from db.states import BatchState, ImageState
from db.tables import Batch, Cohort, Image, Source
from db.transitions import BatchChange, ImageChange, change, changing

#: The longest pause between two tries, as a multiple of the first pause. Pauses grow with the whole wait.
_LONGEST_PAUSE = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Why a batch cannot be screened now, when it is tried again, and until when."""

    #: The code of the error that the worker met.
    code: str
    #: Seconds before the first of the further tries.
    first_seconds: float
    #: Seconds after which the waiting images fail.
    limit_seconds: float

    def pause(self, waited_seconds: float) -> float:
        """Return the seconds before the next try: as many as the wait has lasted, within limits."""
        return min(max(waited_seconds, self.first_seconds), _LONGEST_PAUSE * self.first_seconds)


def ensure_source(session: Session, cohort_id: int, uri: str) -> int:
    """Return the row id of a cohort's source; the row is added if it is missing."""
    session.execute(insert_new(session, Source), [{"cohort_id": cohort_id, "uri": uri}])
    return session.scalars(select(Source.id).where(Source.cohort_id == cohort_id, Source.uri == uri)).one()


def is_pending(
    cohort_id: InstrumentedAttribute[int] | int, source_id: InstrumentedAttribute[int] | int | None
) -> tuple[ColumnElement[bool], ...]:
    """Match a source's pending images; without a source, those that an earlier version added."""
    of_source = Image.source_id.is_(null()) if source_id is None else Image.source_id == source_id
    # The state is a literal, because the databases use the partial index of pending images only then.
    pending = Image.state == literal(ImageState.PENDING, Image.state.type, literal_execute=True)
    return Image.cohort_id == cohort_id, of_source, pending


def _any_pending(source_id: InstrumentedAttribute[int] | None) -> Exists:
    return exists().where(*is_pending(Cohort.id, source_id)).correlate(Cohort, Source)


def has_pending(*, waiting: bool) -> ColumnElement[bool]:
    """Match cohorts with pending images of available sources, or of `waiting` ones that may be tried now."""
    if waiting:
        return exists().where(Source.cohort_id == Cohort.id, _is_due(), _any_pending(Source.id))
    available = and_(Source.cohort_id == Cohort.id, Source.waits_for.is_(None))
    return or_(_any_pending(None), exists().where(available, _any_pending(Source.id)))


def sources_to_cut(session: Session, cohort_id: int) -> list[int | None]:
    """Return a cohort's sources that have pending images and are not known to be unavailable."""
    of_earlier_versions = select(Image.id).where(*is_pending(cohort_id, None)).limit(1)
    available = (
        select(Source.id).join(Cohort).where(Source.cohort_id == cohort_id, Source.waits_for.is_(None))
    )
    found: list[int | None] = [] if session.scalar(of_earlier_versions) is None else [None]
    return found + list(session.scalars(available.where(_any_pending(Source.id)).order_by(Source.id)))


def sources_to_try(session: Session, cohort_id: int) -> list[int]:
    """Return a cohort's unavailable sources whose next try is due and which no batch tries now."""
    tried = exists().where(
        Batch.cohort_id == cohort_id,
        Batch.state.in_((BatchState.QUEUED, BatchState.RUNNING)),
        Batch.source_id == Source.id,
    )
    query = select(Source.id).join(Cohort).where(Source.cohort_id == cohort_id, _is_due(), ~tried)
    return list(session.scalars(query.where(_any_pending(Source.id)).order_by(Source.id)))


def _is_due() -> ColumnElement[bool]:
    return Source.waits_for.is_not(None) & or_(Source.try_at.is_(None), Source.try_at <= database_now())


def delay_source(session: Session, batch: Batch, cohort: Cohort, backoff: Backoff) -> None:
    """Cut no batches from a batch's source before the next try; fail its images if it took too long.

    The caller has locked the cohort. Queued batches of the source are cancelled and their images are pending
    again, so that other sources can use the limit of unfinished batches.
    """
    source_id = batch.source_id or _adopt(session, batch, cohort)
    source = session.get_one(Source, source_id, populate_existing=True)
    now = session.scalars(select(database_now())).one()
    since = now if source.waits_since is None else source.waits_since
    of_source = and_(Batch.cohort_id == cohort.id, Batch.source_id == source.id)
    cancelled = session.scalars(changing(Batch, BatchChange.CANCEL, of_source).returning(Batch.id)).all()
    change(session, Image, ImageChange.UNDO_CUT, Image.batch_id.in_(cancelled))
    if now - since < backoff.limit_seconds:
        source.waits_for, source.waits_since = backoff.code, since
        source.try_at = now + backoff.pause(now - since)
        return
    pending = is_pending(cohort.id, source.id)
    change(session, Image, ImageChange.TIME_OUT, *pending, problem=SourceAway.code)
    source.waits_for = source.waits_since = source.try_at = None


def root_of_earlier_version(described: str, uri: str) -> str:
    """Return the source of an image that an earlier version added: the cohort's, or the image's folder."""
    return described if uri.startswith(described.rstrip("/") + "/") else uri.rpartition("/")[0] or "/"


def _adopt(session: Session, batch: Batch, cohort: Cohort) -> int:
    """Assign the images that an earlier version added from a batch's source to that source; return it."""
    uri = session.scalars(select(Image.uri).where(Image.batch_id == batch.id).limit(1)).one()
    root = root_of_earlier_version(cohort.source, uri)
    source_id = ensure_source(session, cohort.id, root)
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


def end_waits(session: Session, *which: ColumnElement[bool]) -> None:
    """Treat these sources as available again."""
    session.execute(
        update(Source)
        .where(Source.waits_for.is_not(None), *which)
        .values(waits_for=None, waits_since=None, try_at=None)
        .execution_options(synchronize_session=False)
    )
