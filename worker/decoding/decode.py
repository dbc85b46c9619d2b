"""The decoding of one file: header, gate and preprocessing, from a single parse."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from db.jobs.problems import EmptyFile
from worker.gate.modality import UNKNOWN, Sources
from worker.gate.steps import check_header
from worker.imaging.dicom import facts_of, is_dicom, parse_dicom, picture_pixels
from worker.imaging.limits import Limits
from worker.imaging.picture import HeaderFacts
from worker.imaging.rasters.decode import decode_raster


@dataclass(frozen=True, slots=True)
class DecodedFile:
    """The pixels of a picture and, of a DICOM file, the facts of its header."""

    #: uint8, (224, 224, 3).
    pixels: NDArray[np.uint8]
    facts: HeaderFacts | None


def decode_file(content: bytes, limits: Limits, sources: Sources = UNKNOWN) -> DecodedFile:
    """Return the picture in a file's bytes. The bytes tell the kind of the file.

    `sources` is what the site says of its sources, which the gate has to know.

    Raises ImageProblem for any content.
    """
    if not content:
        raise EmptyFile
    if not is_dicom(content):
        return DecodedFile(decode_raster(content, limits), None)
    dataset = parse_dicom(content, limits)
    check_header(dataset, sources)
    return DecodedFile(picture_pixels(dataset, limits), facts_of(dataset))
