"""JPEG files of every process, and JPEG-LS files."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL.JpegImagePlugin import JpegImageFile

from db.jobs.problems import CorruptImage, NoDecoder, UnsupportedPixels
from worker.imaging.limits import Limits
from worker.imaging.pixels.codestream import Codestream, read_codestream
from worker.imaging.rasters.frame import read_frame
from worker.imaging.rasters.pillow import read_with_pillow

if TYPE_CHECKING:
    from pydicom.uid import UID

#: The processes that Pillow's library decodes at 8 bits. Of arithmetic coding, it decodes a part.
_BY_PILLOW = frozenset({"JPEG", "JPEG progressive", "JPEG lossless"})
_ARITHMETIC = "JPEG arithmetic"


def read_jpeg(content: bytes, limits: Limits) -> NDArray[np.uint8]:
    """Return the picture in a JPEG or JPEG-LS file, uint8 (224, 224, 3).

    Raises CorruptImage, UnsupportedPixels, NoDecoder, TooManyPixels, TooFewPixels.
    """
    found = read_codestream(content)
    # A header that has anything unusual in it is left to Pillow, which tolerates more.
    if found is None or (found.precision == 8 and found.process in _BY_PILLOW):
        return _read_with_pillow(content, limits)
    limits.check(found.width, found.height)
    name = f"{found.process}, {found.precision} bits"
    if found.process == _ARITHMETIC and found.precision == 8:
        try:
            return _read_with_pillow(content, limits)
        except CorruptImage:
            raise NoDecoder(name) from None
    if found.components != 1 and (found.components != 3 or found.process != "JPEG-LS"):
        raise UnsupportedPixels(f"{name}, {found.components} components")
    syntax = _syntax(found)
    if syntax is None:
        raise NoDecoder(name)
    return read_frame(content, found, syntax)


def _read_with_pillow(content: bytes, limits: Limits) -> NDArray[np.uint8]:
    return read_with_pillow(JpegImageFile, "JPEG", BytesIO(content), limits)


def _syntax(found: Codestream) -> UID | None:
    """Return the DICOM transfer syntax of frames of this kind, None if there is no such one."""
    from pydicom import uid

    if found.process == "JPEG-LS":
        # The decoder reads from the frame whether it is lossless.
        return uid.JPEGLSNearLossless
    if found.process == "JPEG lossless" and found.precision > 8:
        # GDCM ends the process for less than 8 bits.
        return uid.JPEGLossless
    return uid.JPEGExtended12Bit if found.process == "JPEG" and found.precision == 12 else None
