"""The gate step that judges a DICOM file by its header: a frontal chest radiograph, ready for display."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import TYPE_CHECKING

from db.jobs.problems import (
    ColourImage,
    ForProcessing,
    ImageProblem,
    LateralView,
    MultiFrame,
    NoPixels,
    NotChest,
    NotRadiograph,
)
from worker.gate.verdict import Verdict
from worker.imaging.elements import integer, items, text

if TYPE_CHECKING:
    from pydicom import Dataset

#: Modality (0008,0060) of projection radiographs, PS3.3 C.7.3.1.1.1: computed radiography, digital
#: radiography, conventional film; OT and the retired SC are what film scanners and converters write.
_RADIOGRAPHS = frozenset({"CR", "DX", "RG", "OT", "SC"})

#: Body Part Examined (0018,0015), PS3.16 annex L; sites add words ("PORT CHEST", "CHEST_TO_PELVIS") and
#: use their own language. RIBS is not among them: it is another exposure, often oblique.
_CHEST = re.compile(r"CHEST|CXR|THORAX|TORAX|TORACE|TORAKS|LUNG|PULM|POUMON")

#: View Position (0018,5101), PS3.3 C.8.7.1.1.1: left and right lateral, as the standard and as people
#: write them. A lateral decubitus (LLD, RLD) is a frontal view of someone lying on the side.
_LATERAL = re.compile(r"(?<![A-Z])(LL|RL|[LR]?LAT|LATERAL)(?![A-Z])")
_NOT_LATERAL = re.compile(r"DECUB|OBLIQ")

#: View Code Sequence (0054,0220), PS3.16 CID 4010: lateral, left lateral, right lateral and sagittal in
#: SNOMED CT, then their old SNOMED RT codes.
_LATERAL_CODES = frozenset({
    "399067008", "399173006", "399198007", "30730003", "R-102CD", "R-10236", "R-10232", "G-A145",
})  # fmt: skip


def _has_no_pixels(header: Dataset) -> bool:
    return "PixelData" not in header or not integer(header, "Rows", 0) or not integer(header, "Columns", 0)


def _is_another_body_part(header: Dataset) -> bool:
    body_part = _unaccented(text(header, "BodyPartExamined"))
    return bool(body_part) and not _CHEST.search(body_part)


def _is_lateral(header: Dataset) -> bool:
    codes = items(header, "ViewCodeSequence")
    if any(text(code, "CodeValue") in _LATERAL_CODES for code in codes):
        return True
    # Sites have codes of their own, with a meaning in words.
    words = [text(header, "ViewPosition"), *(text(code, "CodeMeaning") for code in codes)]
    return any(_LATERAL.search(view) and not _NOT_LATERAL.search(view) for view in words)


def _unaccented(value: str) -> str:
    """Return letters without their accents: TORAX for TÓRAX."""
    letters = unicodedata.normalize("NFKD", value)
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


#: Each problem with the test for it; the first one that applies counts.
_PROBLEMS: tuple[tuple[type[ImageProblem], Callable[[Dataset], bool]], ...] = (
    (NoPixels, _has_no_pixels),
    (NotRadiograph, lambda header: text(header, "Modality") not in _RADIOGRAPHS | {""}),
    (ForProcessing, lambda header: text(header, "PresentationIntentType") == "FOR PROCESSING"),
    (MultiFrame, lambda header: integer(header, "NumberOfFrames", 1) > 1),
    (ColourImage, lambda header: text(header, "PhotometricInterpretation") == "PALETTE COLOR"),
    (NotChest, _is_another_body_part),
    (LateralView, _is_lateral),
)


def judge_header(header: Dataset) -> Verdict:
    """Refuse all but frontal chest radiographs. A missing element is no reason to refuse an image.

    Raises CorruptImage if an element that decides cannot be read.
    """
    return Verdict(next((problem() for problem, applies in _PROBLEMS if applies(header)), None))
