"""The outcome of an image: its prediction, or the reason why it has none."""

from __future__ import annotations

import numpy as np

from db.jobs.claims import ClaimedImage, NotScreened
from db.jobs.problems import BrokenModelOutput, OutOfMemory
from db.models.card import ModelCard
from db.models.predictions import Acquisition, Screened
from worker.imaging.picture import HeaderFacts, Picture
from worker.runtime.classes import label_of, positive_probability, types_of
from worker.runtime.precision import Row


def outcome_of(
    card: ModelCard, item: ClaimedImage, picture: Picture, row: Row | None
) -> Screened | NotScreened:
    """Return the outcome of an image. `row` is None if the picture did not fit into memory."""
    if row is None:
        return NotScreened(item.image_id, OutOfMemory())
    values = row.values
    if not np.isfinite(values).all():
        return NotScreened(item.image_id, BrokenModelOutput())
    probability = float(positive_probability(card, values[None])[0])
    return Screened(
        image_id=item.image_id,
        probability=probability,
        label=label_of(card, values, probability),
        types=types_of(card, values),
        precision=row.precision,
        input_digest=picture.digest,
        acquisition=acquisition_of(picture.facts),
    )


def acquisition_of(facts: HeaderFacts | None) -> Acquisition | None:
    """Return what a header says of how its image was made; None for a file that is not DICOM."""
    if facts is None:
        return None
    return Acquisition(
        manufacturer=facts.manufacturer,
        view_position=facts.view_position,
        age=facts.age,
        size=facts.size,
    )
