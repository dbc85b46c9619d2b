"""Results of a cohort: a row per image, in the order in which the images were added."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, select, union_all
from sqlalchemy.orm import Session

from db.states import ImageState
from db.tables import Batch, Cohort, Image, Model, Prediction, Study

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


def cohort_results(
    session: Session,
    cohort: Cohort,
    *,
    pseudonym: Callable[[str], str] | None = None,
    after: int = 0,
    limit: int | None = None,
) -> Iterator[ResultRow]:
    """Yield a cohort's rows: all, or `limit` of them `after` an image.

    `pseudonym` is called with each UID. If it is given, the rows hold no identifiers: no UID and no path. An
    image's prediction is the one of the model that its batch was pinned to.
    """
    for image_ids in image_chunks(session, cohort.id, after=after, limit=limit):
        for _, row in read_results(session, cohort.name, image_ids, pseudonym=pseudonym):
            yield row


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
    cohort: str,
    image_ids: Sequence[int],
    *conditions: ColumnElement[bool],
    limit: int | None = None,
    pseudonym: Callable[[str], str] | None = None,
) -> Iterator[tuple[int, ResultRow]]:
    """Yield the ids and rows of those of these images that meet the conditions, in order, at most `limit`."""
    for row in session.execute(_select_rows(image_ids).where(*conditions).limit(limit)):
        yield row.id, _result(cohort, tuple(row), pseudonym)


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
        )
        .outerjoin(Study, Study.id == Image.study_id)
        .outerjoin(Batch, Batch.id == Image.batch_id)
        .outerjoin(Prediction, and_(Prediction.image_id == Image.id, Prediction.model_id == Batch.model_id))
        .outerjoin(Model, Model.id == Prediction.model_id)
        .where(Image.id.in_(image_ids))
        .order_by(Image.id)
    )


def _result(cohort: str, row: tuple[Any, ...], pseudonym: Callable[[str], str] | None) -> ResultRow:
    image_id, digest, *uids, uri = row[:6]
    if pseudonym is not None:
        uids = [uid and pseudonym(uid) for uid in uids]
        uri = f"sha256:{digest}" if digest else f"image:{image_id}"
    types: dict[str, float] = row[-1] or {}
    likeliest = max(types, key=types.__getitem__, default=None)
    chance = None if likeliest is None else types[likeliest]
    cells: tuple[Any, ...] = (cohort, *uids, uri, *row[6:-1], likeliest, chance)
    return ResultRow(*cells)


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
