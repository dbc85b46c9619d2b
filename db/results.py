"""What came of a cohort, a row per image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, func, select
from sqlalchemy.orm import Session

from db.states import ImageState
from db.tables import Batch, Cohort, Image, Model, Prediction, Study

#: Rows fetched at a time: enough to hide the round trip, a few megabytes in memory.
_FETCH = 5_000


@dataclass(frozen=True, slots=True)
class ResultRow:
    """One row of a results table, in the order of its columns."""

    cohort: str
    #: Study, Series and SOP Instance UID, or their pseudonyms; None for what is not DICOM.
    study: str | None
    series: str | None
    instance: str | None
    #: The file; without identifiers `sha256:` and its digest, or `image:` and its row where it has none.
    source: str
    state: ImageState
    #: P(PNEUMONIA).
    probability: float | None
    label: str | None
    threshold: float | None
    #: Backbone and digest of the model.
    model: str | None
    #: The code of what stood in the way; null where there is a prediction.
    error: str | None
    #: The most probable type of pneumonia and its probability, from a model that tells types apart.
    type: str | None
    type_probability: float | None


def cohort_results(
    session: Session, cohort: Cohort, *, pseudonym: Callable[[str], str] | None = None
) -> Iterator[ResultRow]:
    """Yield a cohort's rows in the order in which its images were taken in.

    With `pseudonym`, which is given each UID, they hold no identifiers: no UID and no path. An image's
    prediction is the one of the model that its batch was pinned to.
    """
    query = (
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
        .where(Image.cohort_id == cohort.id)
        .order_by(Image.id)
        .execution_options(yield_per=_FETCH)
    )
    for row in session.execute(query):
        image_id, digest, *uids, uri = tuple(row)[:6]
        if pseudonym is not None:
            uids = [uid and pseudonym(uid) for uid in uids]
            uri = f"sha256:{digest}" if digest else f"image:{image_id}"
        types: dict[str, float] = row.types or {}
        likeliest = max(types, key=types.__getitem__, default=None)
        chance = None if likeliest is None else types[likeliest]
        cells: tuple[Any, ...] = (cohort.name, *uids, uri, *tuple(row)[6:-1], likeliest, chance)
        yield ResultRow(*cells)


@dataclass(frozen=True, slots=True)
class LabelCount:
    """How many of a cohort's images one model gave one label."""

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
