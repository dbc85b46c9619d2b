"""The verdict of a gate step, and the two kinds of step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from db.jobs.problems import ImageProblem
from worker.gate.modality import Sources
from worker.imaging.picture import Picture

if TYPE_CHECKING:
    from pydicom import Dataset


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a gate step found out about one image."""

    #: Why the image must not be screened, with its code; None if it passes.
    problem: ImageProblem | None = None
    #: The value that the step compared with its limit, None if it measures nothing.
    score: float | None = None


class HeaderStep(Protocol):
    """A check of a DICOM header. It runs in a decoding process, before pixels are decoded."""

    def __call__(self, header: Dataset, sources: Sources) -> Verdict:
        """Judge a header by what it says and by what the site says of its sources.

        Raises CorruptImage if an element that decides cannot be read.
        """
        ...


class PictureStep(Protocol):
    """A check of pictures and the facts of their headers. It runs in a worker, before the model."""

    def __call__(self, pictures: Sequence[Picture]) -> Sequence[Verdict]:
        """Return a verdict on each picture of a forward pass."""
        ...
