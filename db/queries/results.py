"""Results of a cohort: a row per image, in the order in which the images were added."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from sqlalchemy import ColumnElement, Row, Select, and_, func, select, union_all
from sqlalchemy.orm import Session

from db.states import ImageState
from db.tables import Batch, Cohort, Image, Model, Prediction, Source, Study
from db.trust.acceptances import NOT_ACCEPTED, standing

#: Images read at a time: enough to hide the round trip, and few enough that PostgreSQL looks each of them up
#: in the other tables instead of reading one of those whole.
CHUNK = 1_000


@dataclass(frozen=True, slots=True)
class ResultRow:
    """One row of a results table, in the order of its columns."""

    cohort: str
    #: Study, Series and SOP Instance UID, or their pseudonyms; None for what is not DICOM.
    study: str | None
    series: str | None
    instance: str | None
    #: The file. Without identifiers: `sha256:` and its digest, or `image:` and its row id if it has none.
    source: str
    state: ImageState
    #: P(PNEUMONIA).
    probability: float | None
    label: str | None
    threshold: float | None
    #: Backbone and digest of the model.
    model: str | None
    #: The code of the problem; None if there is a prediction.
    error: str | None
    #: The most probable type of pneumonia and its probability, if the model distinguishes types.
    type: str | None
    type_probability: float | None
    #: The row id of the image.
    image: int
    #: The pseudonym of the patient.
    patient: str | None
    #: When the prediction was made: ISO 8601 in UTC, to the second.
    time: str | None
    #: What the prediction was made with: number format, library and device, preprocessing, our version.
    precision: str | None
    runtime: str | None
    preprocessing: str | None
    software: str | None
    #: The file's path within the source, and the Accession Number; None unless the reader may see them.
    file: str | None
    accession: str | None
    #: How familiar the picture was to the model, 0 to 1, and the codes of why the prediction needs care.
    familiarity: float | None
    caution: str | None
    #: Whether the model was accepted at this site: `accepted` or `not accepted at this site`.
    acceptance: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Disclosure:
    """The identifiers that rows show."""

    #: Called with each UID. If it is given, the rows hold no UID and no path but those that follow.
    pseudonym: Callable[[str], str] | None = None
    #: Whether rows hold the path of the file within its source.
    names: bool = False
    #: Whether rows hold the Accession Number.
    accession: bool = False


#: Shows UIDs and whole paths as they are.
IDENTIFIERS = Disclosure()


def cohort_results(
    session: Session,
    cohort: Cohort,
    *,
    disclosure: Disclosure = IDENTIFIERS,
    states: Collection[ImageState] = tuple(ImageState),
    after: int = 0,
    limit: int | None = None,
) -> Iterator[ResultRow]:
    """Yield a cohort's rows in some states: all, or `limit` of them `after` an image.

    An image's prediction is the one of the model that its batch was pinned to.
    """
    for image_ids in image_chunks(session, cohort.id, after=after, limit=limit, states=states):
        yield from read_results(session, cohort, image_ids, disclosure=disclosure)


def image_chunks(
    session: Session,
    cohort_id: int,
    *,
    after: int = 0,
    limit: int | None = None,
    states: Collection[ImageState] = tuple(ImageState),
) -> Iterator[Sequence[int]]:
    """Yield the ids of a cohort's images in order, a chunk at a time. Every chunk costs the same."""
    left = limit
    while left is None or left > 0:
        size = CHUNK if left is None else min(CHUNK, left)
        image_ids = session.scalars(_next_ids(cohort_id, after, size, states)).all()
        if image_ids:
            yield image_ids
        if len(image_ids) < size:
            return
        after = image_ids[-1]
        left = None if left is None else left - size


def _next_ids(cohort_id: int, after: int, size: int, states: Collection[ImageState]) -> Select[int]:
    """Select the next ids.

    The index of cohort, state and id has them in order within one state: the query takes the first of each
    state, and the first of those. An index of cohort and id alone would slow every change of an image down.
    """
    by_state = (
        select(Image.id)
        .where(Image.cohort_id == cohort_id, Image.state == state, Image.id > after)
        .order_by(Image.id)
        .limit(size)
        .subquery()
        for state in states
    )
    ids = union_all(*(select(state.c.id) for state in by_state)).subquery()
    return select(ids.c.id).order_by(ids.c.id).limit(size)


def read_results(
    session: Session,
    cohort: Cohort,
    image_ids: Sequence[int],
    *conditions: ColumnElement[bool],
    limit: int | None = None,
    disclosure: Disclosure = IDENTIFIERS,
) -> Iterator[ResultRow]:
    """Yield the rows of those of these images that meet the conditions, in order, at most `limit`."""
    accepted = standing(session)
    for row in session.execute(_select_rows(image_ids).where(*conditions).limit(limit)):
        acceptance = None if row.model_id is None else accepted.get(row.model_id, NOT_ACCEPTED)
        yield _result(cohort, row, disclosure, acceptance)


def _select_rows(image_ids: Sequence[int]) -> Select[*tuple[Any, ...]]:
    return (
        select(
            Image.id,
            Image.digest,
            Study.study_uid,
            Image.series_uid,
            Image.instance_uid,
            Image.uri,
            Image.state,
            Prediction.probability,
            Prediction.label,
            Prediction.threshold,
            Model.name,
            Image.problem,
            Prediction.types,
            Study.patient_key,
            Prediction.created_at,
            Prediction.precision,
            Prediction.runtime,
            Prediction.preprocessing,
            Prediction.software,
            Source.uri.label("root"),
            Study.accession,
            Prediction.familiarity,
            Prediction.caution,
            Prediction.model_id,
        )
        .outerjoin(Study, Study.id == Image.study_id)
        .outerjoin(Source, Source.id == Image.source_id)
        .outerjoin(Batch, Batch.id == Image.batch_id)
        .outerjoin(Prediction, and_(Prediction.image_id == Image.id, Prediction.model_id == Batch.model_id))
        .outerjoin(Model, Model.id == Prediction.model_id)
        .where(Image.id.in_(image_ids))
        .order_by(Image.id)
    )


def _result(cohort: Cohort, row: Row[Any], disclosure: Disclosure, acceptance: str | None) -> ResultRow:
    study, series, instance, source = row.study_uid, row.series_uid, row.instance_uid, row.uri
    if disclosure.pseudonym is not None:
        study, series, instance = (uid and disclosure.pseudonym(uid) for uid in (study, series, instance))
        source = f"sha256:{row.digest}" if row.digest else f"image:{row.id}"
    types: dict[str, float] = row.types or {}
    likeliest = max(types, key=types.__getitem__, default=None)
    return ResultRow(
        cohort.name,
        study,
        series,
        instance,
        source,
        row.state,
        row.probability,
        row.label,
        row.threshold,
        row.name,
        row.problem,
        likeliest,
        None if likeliest is None else types[likeliest],
        row.id,
        row.patient_key,
        None if row.created_at is None else iso_time(row.created_at),
        row.precision,
        row.runtime,
        row.preprocessing,
        row.software,
        path_within(row.root or cohort.source, row.uri) if disclosure.names else None,
        row.accession if disclosure.accession else None,
        row.familiarity,
        row.caution,
        acceptance,
    )


def iso_time(moment: float) -> str:
    """Return a time, given in seconds since 1970, in UTC to the second: `2026-05-01T22:15:00+00:00`."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")


def path_within(source: str, uri: str) -> str:
    """Return a file's path within its source, or the file's name if the source has no such file.

    A path that is no valid text stays percent-encoded, as in its `file:` URI.
    """
    folder = source.rstrip("/") + "/"
    for beginning in (folder, f"file://{quote(folder)}"):
        if uri.startswith(beginning):
            return uri.removeprefix(beginning)
    return uri.rpartition("/")[2]


def holds_accession(session: Session, cohort_id: int) -> bool:
    """Return whether any study of a cohort has an Accession Number."""
    query = select(Study.id).where(Study.cohort_id == cohort_id, Study.accession.is_not(None)).limit(1)
    return session.scalar(query) is not None


@dataclass(frozen=True, slots=True)
class LabelCount:
    """How many images of a cohort got one label from one model."""

    model: str
    label: str
    images: int


def count_labels(session: Session, cohort_id: int) -> list[LabelCount]:
    """Count a cohort's predictions by model and label."""
    query = (
        select(Model.name, Prediction.label, func.count())
        .join(Image, Image.id == Prediction.image_id)
        .join(Model, Model.id == Prediction.model_id)
        .where(Image.cohort_id == cohort_id)
        .group_by(Model.name, Prediction.label)
        .order_by(Model.name, Prediction.label)
    )
    return [LabelCount(*row) for row in session.execute(query)]
