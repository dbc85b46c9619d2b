"""The steps of the gate, in the order in which they are applied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from db.jobs.problems import ImageProblem
from worker.gate.header import judge_header
from worker.gate.modality import Sources
from worker.gate.quality import judge_quality
from worker.gate.verdict import HeaderStep, PictureStep
from worker.imaging.picture import Picture

if TYPE_CHECKING:
    from pydicom import Dataset

HEADER_STEPS: tuple[HeaderStep, ...] = (judge_header,)

#: A step that tells the view from the picture, as most headers of lateral films do not, has its place after
#: the quality: a picture without content has no view.
PICTURE_STEPS: tuple[PictureStep, ...] = (judge_quality,)


def check_header(header: Dataset, sources: Sources) -> None:
    """Raise the ImageProblem of the first step that refuses a DICOM file by its header."""
    for step in HEADER_STEPS:
        problem = step(header, sources).problem
        if problem is not None:
            raise problem


def problems_of(pictures: Sequence[Picture]) -> list[ImageProblem | None]:
    """Return for each picture the problem of the first step that refuses it, None if it passes all of them.

    A step gets only the pictures that passed the steps before it.
    """
    found: list[ImageProblem | None] = [None] * len(pictures)
    passed = list(range(len(pictures)))
    for step in PICTURE_STEPS:
        verdicts = step([pictures[index] for index in passed])
        for index, verdict in zip(passed, verdicts, strict=True):
            found[index] = verdict.problem
        passed = [index for index in passed if found[index] is None]
    return found
