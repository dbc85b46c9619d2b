"""The outcome of an image: its prediction with its cautions, or the reason why it has none."""

from __future__ import annotations

import numpy as np

from db.jobs.claims import ClaimedImage, NotScreened
from db.jobs.problems import BrokenModelOutput, OutOfMemory, Unfamiliar
from db.models.predictions import Acquisition, Screened
from worker.imaging.picture import HeaderFacts, Picture
from worker.runtime.classes import label_of, positive_probability, types_of
from worker.runtime.precision import LoadedModel, Row
from worker.trust.cautions import cautions_of
from worker.trust.familiarity import is_unfamiliar


def outcome_of(
    model: LoadedModel,
    item: ClaimedImage,
    picture: Picture,
    row: Row | None,
    *,
    skip_unfamiliar: bool = False,
) -> Screened | NotScreened:
    """Return the outcome of an image. `row` is None if the picture did not fit into memory."""
    if row is None:
        return NotScreened(item.image_id, OutOfMemory())
    card, values = model.runtime.card, row.values
    if not np.isfinite(values).all():
        return NotScreened(item.image_id, BrokenModelOutput())
    familiarity = None
    if model.statistics is not None and row.distance is not None:
        familiarity = model.statistics.familiarity(row.distance)
    if skip_unfamiliar and is_unfamiliar(familiarity):
        return NotScreened(item.image_id, Unfamiliar())
    probability = float(positive_probability(card, values[None])[0])
    return Screened(
        image_id=item.image_id,
        probability=probability,
        label=label_of(card, values, probability),
        types=types_of(card, values),
        precision=row.precision,
        input_digest=picture.digest,
        familiarity=familiarity,
        caution=cautions_of(card, picture.facts, familiarity),
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
