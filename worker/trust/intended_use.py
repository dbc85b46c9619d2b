"""The intended use of a model, compared with what a DICOM header says of an image."""

from __future__ import annotations

import re

from db.models.card import IntendedUse
from worker.imaging.picture import HeaderFacts

#: The defined terms of View Position (0018,5101), PS3.3 C.8.7.1.1.1. Whatever else devices write there says
#: nothing reliable.
_VIEWS = frozenset({"AP", "PA", "LL", "RL", "RLD", "LLD", "RLO", "LLO"})

#: What sites write between several values.
_SEPARATORS = re.compile(r"[^A-Z]+")

#: An age in years. A decoding process that was taken over by a file may send anything.
_AGE = re.compile(r"[0-9]{1,3}\.[0-9]")


def is_outside(use: IntendedUse | None, facts: HeaderFacts) -> bool:
    """Tell whether a header says that its image is outside of the intended use.

    What the header does not say, or not in words that are known, is no reason.
    """
    if use is None:
        return False
    modalities = {name for name in _SEPARATORS.split(facts.modality) if name}
    views = {facts.view_position} & _VIEWS
    return (
        _is_outside_age(use, facts.age)
        or bool(use.views and views and not views & {*use.views})
        or bool(use.modalities and modalities and not modalities & {*use.modalities})
    )


def _is_outside_age(use: IntendedUse, age: str) -> bool:
    """Compare an age in years, as `4.5`. A patient of 5.9 years is 5 years old."""
    if use.age_years is None or not _AGE.fullmatch(age):
        return False
    youngest, oldest = use.age_years
    return not youngest <= float(age) < oldest + 1
