"""The gate step that judges a DICOM file by its header: a frontal chest radiograph, ready for display."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from db.jobs.problems import (
    ColourImage,
    ForProcessing,
    ImageProblem,
    MultiFrame,
    NoPixels,
    NotChest,
)
from worker.gate.body_part import names_another_part
from worker.gate.modality import Sources, class_problem, modality_problem
from worker.gate.verdict import Verdict
from worker.gate.view import view_problem
from worker.imaging.elements import integer, text

if TYPE_CHECKING:
    from pydicom import Dataset

#: A check of a header: the problem that it finds, None if there is none.
Check = Callable[["Dataset", Sources], ImageProblem | None]


def _has_no_pixels(header: Dataset) -> bool:
    return "PixelData" not in header or not integer(header, "Rows", 0) or not integer(header, "Columns", 0)


def _is_for_processing(header: Dataset) -> bool:
    return text(header, "PresentationIntentType") == "FOR PROCESSING"


def _has_several_frames(header: Dataset) -> bool:
    return integer(header, "NumberOfFrames", 1) > 1


def _is_in_colours(header: Dataset) -> bool:
    return text(header, "PhotometricInterpretation") == "PALETTE COLOR"


def _refuse(problem: type[ImageProblem], applies: Callable[[Dataset], bool]) -> Check:
    """Return the check that finds a problem in the headers that it applies to."""
    return lambda header, _: problem() if applies(header) else None


#: The checks in their order: the first problem counts.
CHECKS: tuple[Check, ...] = (
    _refuse(NoPixels, _has_no_pixels),
    modality_problem,
    lambda header, _: class_problem(header),
    _refuse(ForProcessing, _is_for_processing),
    _refuse(MultiFrame, _has_several_frames),
    _refuse(ColourImage, _is_in_colours),
    _refuse(NotChest, names_another_part),
    lambda header, _: view_problem(header),
)


def judge_header(header: Dataset, sources: Sources) -> Verdict:
    """Refuse all but frontal chest radiographs. A missing element is no reason to refuse a radiograph.

    Raises CorruptImage if an element that decides cannot be read.
    """
    found = (check(header, sources) for check in CHECKS)
    return Verdict(next((problem for problem in found if problem is not None), None))
