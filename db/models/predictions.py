"""Predictions: what a worker writes of each image that it has screened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from db.clock import database_now
from db.engine import upsert
from db.tables import Prediction


@dataclass(frozen=True, slots=True, kw_only=True)
class Acquisition:
    """What a DICOM header says of how an image was made; a text is empty if it is unknown."""

    #: Manufacturer (0008,0070) and View Position (0018,5101), in upper case.
    manufacturer: str
    view_position: str
    #: The patient's age in years, as `4.5`.
    age: str
    #: Rows and Columns, as `2048x2500`.
    size: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Screened:
    """An image's prediction."""

    image_id: int
    #: P(PNEUMONIA).
    probability: float
    label: str
    #: The number format of the forward pass.
    precision: str
    #: SHA-256 of the file's bytes.
    input_digest: str
    #: The probability of each type of pneumonia, if the model distinguishes types.
    types: dict[str, float] | None = None
    #: See `Prediction`.
    familiarity: float | None = None
    caution: str | None = None
    #: None for a file that is not DICOM. It is counted with its batch, and not stored with the image.
    acquisition: Acquisition | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What all predictions of a batch have in common, and what explains them later."""

    threshold: float
    runtime: str
    preprocessing: str
    software: str


def write_predictions(
    session: Session, model_id: int, screened: Sequence[Screened], provenance: Provenance
) -> None:
    """Write the predictions of one model; an existing one of the same image and model is replaced."""
    rows = [
        {
            "image_id": one.image_id,
            "model_id": model_id,
            "probability": one.probability,
            "label": one.label,
            "input_digest": one.input_digest,
            "threshold": provenance.threshold,
            "types": one.types,
            "familiarity": one.familiarity,
            "caution": one.caution,
            "precision": one.precision,
            "runtime": provenance.runtime,
            "preprocessing": provenance.preprocessing,
            "software": provenance.software,
        }
        for one in screened
    ]
    insert = upsert(session, Prediction)
    replaced = {name: insert.excluded[name] for name in rows[0] if name not in ("image_id", "model_id")}
    statement = insert.on_conflict_do_update(
        index_elements=["image_id", "model_id"], set_=replaced | {"created_at": database_now()}
    )
    session.execute(statement, rows)
