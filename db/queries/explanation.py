"""All data of one image in the job table, with all that explains its predictions."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.errors import PneumoscreenError
from db.queries.results import IDENTIFIERS, Disclosure, ResultRow, read_results
from db.tables import Batch, Cohort, Image, Model, Prediction


class ImageUnknown(PneumoscreenError):
    """No image has this id. Its cohort may have been moved to an archive, which the audit log names."""

    code = "image-unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionExplained:
    """One model's prediction for an image, and what it was made with."""

    probability: float
    label: str
    #: The probability of each type of pneumonia, if the model distinguishes types.
    types: dict[str, float] | None
    #: The threshold at that time: P(PNEUMONIA) at or above it is labelled PNEUMONIA.
    threshold: float
    model: str
    weights_digest: str
    preprocessing: str
    #: Number format of the forward pass.
    precision: str
    #: Library, version and kind of device.
    runtime: str
    #: Version of pneumoscreen.
    software: str
    #: SHA-256 of the file's bytes.
    input_digest: str
    #: See `Prediction`.
    familiarity: float | None
    caution: str | None
    #: Seconds since 1970-01-01 UTC.
    predicted_at: float
    #: Whether the results show it: its model is the one that the image's batch was pinned to.
    is_current: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageExplained:
    """One image: its row in the results, its file, its batch and its predictions."""

    cohort_id: int
    result: ResultRow
    #: The frame within the file, counted from 0.
    frame: int
    #: The file's size in bytes and its time of change when it was added; None if the source does not tell.
    size: int | None
    modified: float | None
    #: SHA-256 of the file as it was screened.
    digest: str | None
    #: How often a worker has claimed it.
    attempts: int
    batch_id: int | None
    #: The worker that holds or held the batch, and when the batch was finished.
    worker: str | None
    finished_at: float | None
    #: One for each model that has screened it, the oldest first.
    predictions: tuple[PredictionExplained, ...]


def show_image(session: Session, image_id: int, *, disclosure: Disclosure = IDENTIFIERS) -> ImageExplained:
    """Return one image with all that explains its predictions. Raises ImageUnknown."""
    image = session.get(Image, image_id)
    if image is None:
        raise ImageUnknown
    cohort = session.get_one(Cohort, image.cohort_id)
    batch = None if image.batch_id is None else session.get_one(Batch, image.batch_id)
    (result,) = read_results(session, cohort, [image_id], disclosure=disclosure)
    return ImageExplained(
        cohort_id=cohort.id,
        result=result,
        frame=image.frame,
        size=image.size,
        modified=image.modified,
        digest=image.digest,
        attempts=image.attempts,
        batch_id=image.batch_id,
        worker=None if batch is None else batch.lease_owner,
        finished_at=None if batch is None else batch.finished_at,
        predictions=_predictions(session, image_id, None if batch is None else batch.model_id),
    )


def _predictions(
    session: Session, image_id: int, current_model_id: int | None
) -> tuple[PredictionExplained, ...]:
    query = (
        select(Prediction, Model)
        .join(Model, Model.id == Prediction.model_id)
        .where(Prediction.image_id == image_id)
        .order_by(Prediction.id)
    )
    return tuple(
        PredictionExplained(
            probability=prediction.probability,
            label=prediction.label,
            types=prediction.types,
            threshold=prediction.threshold,
            model=model.name,
            weights_digest=model.weights_digest,
            preprocessing=prediction.preprocessing,
            precision=prediction.precision,
            runtime=prediction.runtime,
            software=prediction.software,
            input_digest=prediction.input_digest,
            familiarity=prediction.familiarity,
            caution=prediction.caution,
            predicted_at=prediction.created_at,
            is_current=model.id == current_model_id,
        )
        for prediction, model in session.execute(query)
    )
