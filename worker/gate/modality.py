"""The kinds of image by Modality and SOP Class: radiographs, and what is not one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from db.jobs.problems import ForProcessing, ImageProblem, NotChest, NotRadiograph
from worker.gate.body_part import names_chest
from worker.gate.words import texts_of
from worker.imaging.elements import element, text

if TYPE_CHECKING:
    from pydicom import Dataset

#: Modality (0008,0060) of projection radiographs, PS3.3 C.7.3.1.1.1: computed radiography, digital
#: radiography and conventional film. DR and XR are not in the standard, but many sites and devices write
#: them, and some write both values as one.
_RADIOGRAPHS = frozenset({"CR", "DX", "RG", "DR", "XR", "CRDX", "DXCR"})

#: Modality of whatever was captured, scanned or converted: a digitised film, or a screenshot. SC is retired.
_CAPTURES = frozenset({"OT", "SC"})

#: What sites write between several values, beside the backslash of the standard.
_SEPARATORS = re.compile(r"[\\/,;&+\s\0]+")

#: SOP Class (0008,0016), PS3.4 B.5. The others of this root are cross-sections, fluoroscopy, ultrasound,
#: photographs and the like.
_STANDARD = "1.2.840.10008.5.1.4.1.1."
_COMPUTED, _DIGITAL = f"{_STANDARD}1", f"{_STANDARD}1.1"
_DIGITAL_FOR_PROCESSING = f"{_STANDARD}1.1.1"
#: Mammography and intra-oral radiographs, For Presentation and For Processing.
_MAMMOGRAPHY_AND_TEETH = (f"{_STANDARD}1.2", f"{_STANDARD}1.3")
_CAPTURE = f"{_STANDARD}7"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What the site says of all its sources."""

    #: Every image is a chest film, even if its header does not name the chest.
    chest_only: bool = False


#: Nothing is said of the sources.
UNKNOWN = Sources()


def modality_problem(header: Dataset, sources: Sources) -> ImageProblem | None:
    """Return why an image is not a radiograph by its Modality, None if it may be one.

    A Modality that is missing refuses nothing. A capture must name the chest, or come from sources that hold
    chest films only; a capture with Image Orientation (Patient) (0020,0037) is a cross-section.
    """
    named = {name for name in _SEPARATORS.split("/".join(texts_of(header, "Modality"))) if name}
    if named & _RADIOGRAPHS:
        return None
    if named and not named & _CAPTURES:
        return NotRadiograph()
    if _is_cross_section(header):
        return NotRadiograph()
    is_capture = bool(named) or _is_a(header, _CAPTURE)
    if is_capture and not sources.chest_only and not names_chest(header):
        return NotRadiograph()
    return None


def class_problem(header: Dataset) -> ImageProblem | None:
    """Return why an image is not for us by its SOP Class, None for radiographs and captures.

    A SOP Class that is missing or private says nothing.
    """
    uid = text(header, "SOPClassUID").strip("\0")
    if not uid.startswith(_STANDARD) or uid in (_COMPUTED, _DIGITAL) or _is_a(header, _CAPTURE):
        return None
    if uid == _DIGITAL_FOR_PROCESSING:
        return ForProcessing()
    return NotChest() if any(_is_a(header, kind) for kind in _MAMMOGRAPHY_AND_TEETH) else NotRadiograph()


def _is_a(header: Dataset, kind: str) -> bool:
    """Tell whether an image's SOP Class is this one, or one of those below it."""
    uid = text(header, "SOPClassUID").strip("\0")
    return uid == kind or uid.startswith(f"{kind}.")


def _is_cross_section(header: Dataset) -> bool:
    return any(element(header, keyword) for keyword in ("ImageOrientationPatient", "ImagePositionPatient"))
