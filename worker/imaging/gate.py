"""Which DICOM images are for us, by their header alone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from db.problems import ColourImage, ForProcessing, LateralView, MultiFrame, NoPixels, NotChest, NotRadiograph

if TYPE_CHECKING:
    from pydicom import Dataset

#: Modality (0008,0060) of projection radiographs, PS3.3 C.7.3.1.1.1: computed radiography, digital
#: radiography, conventional film; OT and the retired SC are what film scanners and converters write.
_RADIOGRAPHS = frozenset({"CR", "DX", "RG", "OT", "SC"})

#: Body Part Examined (0018,0015), PS3.16 annex L; sites add words and use their own language.
_CHEST = re.compile(r"CHEST|THORAX|T[OÓ]RAX|LUNG")

#: View Position (0018,5101), PS3.3 C.8.7.1.1: left and right lateral, as the standard and as people
#: write them. A lateral decubitus (LLD, RLD) is a frontal view of someone lying on the side.
_LATERAL = frozenset({"LL", "RL", "LAT", "LATERAL", "L LAT", "R LAT", "LLAT", "RLAT"})
_LATERAL_MEANING = re.compile(r"\blateral\b(?!.*decubitus)", re.IGNORECASE)


def check_screenable(header: Dataset) -> None:
    """Raise why an image is not for us; what a header does not say is no reason.

    Raises NoPixels, NotRadiograph, ForProcessing, MultiFrame, ColourImage, NotChest, LateralView.
    """
    if "PixelData" not in header or not header.get("Rows") or not header.get("Columns"):
        raise NoPixels
    if _text(header, "Modality") not in _RADIOGRAPHS | {""}:
        raise NotRadiograph
    if _text(header, "PresentationIntentType") == "FOR PROCESSING":
        raise ForProcessing
    if int(header.get("NumberOfFrames") or 1) > 1:
        raise MultiFrame
    if _text(header, "PhotometricInterpretation") == "PALETTE COLOR":
        raise ColourImage
    body_part = _text(header, "BodyPartExamined")
    if body_part and not _CHEST.search(body_part):
        raise NotChest
    if _is_lateral(header):
        raise LateralView


def _is_lateral(header: Dataset) -> bool:
    if _text(header, "ViewPosition") in _LATERAL:
        return True
    # View Code Sequence (0054,0220), PS3.3 C.8.11.5.1; its codes are SNOMED's, old and new, and its
    # meanings are the same in both.
    codes = header.get("ViewCodeSequence") or ()
    return any(_LATERAL_MEANING.search(str(code.get("CodeMeaning", ""))) for code in codes)


def _text(header: Dataset, keyword: str) -> str:
    """Return an element as upper-case text without padding; empty where it is missing or has no value."""
    value = header.get(keyword)
    return "" if value is None else str(value).strip().upper()
