"""The part of the body that a DICOM header names: the chest, another one, or none that is known."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum, auto
from typing import TYPE_CHECKING

from worker.gate.anatomy import CHEST, CHEST_WITHOUT_MORE, OTHER_PARTS
from worker.gate.codes import CHEST_REGIONS, OTHER_REGIONS, snomed_code
from worker.gate.words import texts_of
from worker.imaging.elements import items

if TYPE_CHECKING:
    from pydicom import Dataset

#: Sequences that name the body part by codes: Anatomic Region (0008,2218), whose codes are those of PS3.16
#: CID 4031 and, for Digital X-Ray, CID 4009; and Primary Anatomic Structure (0008,2228).
_SEQUENCES = ("AnatomicRegionSequence", "PrimaryAnatomicStructureSequence")

#: Elements that may name the chest: Body Part Examined (0018,0015), and the descriptions of the study
#: (0008,1030), the series (0008,103E), the protocol (0018,1030) and the procedure (0040,0254), (0032,1060).
_DESCRIPTIONS = (
    "BodyPartExamined",
    "StudyDescription",
    "SeriesDescription",
    "ProtocolName",
    "PerformedProcedureStepDescription",
    "RequestedProcedureDescription",
)


class Part(Enum):
    """What a text or a code says of the body part."""

    CHEST = auto()
    OTHER = auto()
    UNKNOWN = auto()


def part_in(texts: list[str]) -> Part:
    """Return the part that the values of one element name, in plain texts.

    The chest comes first, as other parts may be named beside it.
    """
    for vocabulary, part in (
        (CHEST, Part.CHEST),
        (OTHER_PARTS, Part.OTHER),
        (CHEST_WITHOUT_MORE, Part.CHEST),
    ):
        if any(vocabulary.names(one) for one in texts):
            return part
    return Part.UNKNOWN


def names_another_part(header: Dataset) -> bool:
    """Tell whether an element names another body part and not the chest: one that contradicts, too."""
    body_part = part_in(texts_of(header, "BodyPartExamined"))
    return Part.OTHER in (body_part, *_coded_parts(header))


def names_chest(header: Dataset) -> bool:
    """Tell whether an element or a description names the chest."""
    described = (part_in(texts_of(header, keyword)) for keyword in _DESCRIPTIONS)
    return Part.CHEST in (*described, *_coded_parts(header))


def _coded_parts(header: Dataset) -> Iterator[Part]:
    for keyword in _SEQUENCES:
        for item in items(header, keyword):
            yield _coded_part(item)


def _coded_part(item: Dataset) -> Part:
    """Return the part that an item names: by its code, else by the words of its Code Meaning (0008,0104)."""
    code = snomed_code(item)
    if code in CHEST_REGIONS:
        return Part.CHEST
    if code in OTHER_REGIONS:
        return Part.OTHER
    return part_in(texts_of(item, "CodeMeaning"))
