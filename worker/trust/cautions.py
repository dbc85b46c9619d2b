"""The cautions beside a prediction: what speaks against trust in it."""

from __future__ import annotations

from db.models.card import ModelCard
from db.models.cautions import OutsideIntendedUse, UnfamiliarPicture
from worker.imaging.picture import HeaderFacts
from worker.trust.familiarity import is_unfamiliar
from worker.trust.intended_use import is_outside


def cautions_of(card: ModelCard, facts: HeaderFacts | None, familiarity: float | None) -> str | None:
    """Return the codes of all cautions, separated by spaces; None if nothing speaks against trust.

    `facts` are those of a DICOM header: other files say nothing of the patient and the view.
    """
    cautions = [
        *((UnfamiliarPicture,) if is_unfamiliar(familiarity) else ()),
        *((OutsideIntendedUse,) if facts is not None and is_outside(card.intended_use, facts) else ()),
    ]
    return " ".join(caution.code for caution in cautions) or None
