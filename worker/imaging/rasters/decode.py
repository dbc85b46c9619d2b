"""The decoding of raster files of every format."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from db.jobs.problems import NotAnImage, UnsupportedPixels
from worker.files.formats import format_not_read, format_of
from worker.files.silence import silence_libraries
from worker.imaging.limits import Limits
from worker.imaging.rasters.jpeg import read_jpeg
from worker.imaging.rasters.jpeg2000 import read_jpeg2000
from worker.imaging.rasters.pillow import read_bmp
from worker.imaging.rasters.png import read_png
from worker.imaging.rasters.tiff import read_tiff

#: The reader of each format.
_READERS: dict[str, Callable[[bytes, Limits], NDArray[np.uint8]]] = {
    "JPEG": read_jpeg,
    "JPEG 2000": read_jpeg2000,
    "PNG": read_png,
    "TIFF": read_tiff,
    "BMP": read_bmp,
}


def decode_raster(content: bytes, limits: Limits) -> NDArray[np.uint8]:
    """Return the picture in a raster file as uint8 (224, 224, 3).

    EXIF's orientation is applied, transparency is ignored. Greyscale of more than 8 bits is scaled by its
    known range, or by the bits that it uses (`bits_in_use`). Raises NotAnImage, CorruptImage, TooManyPixels,
    TooFewPixels, MultiFrame, UnsupportedPixels, NoDecoder.
    """
    silence_libraries()
    form = format_of(content)
    if form is not None:
        return _READERS[form](content, limits)
    known = format_not_read(content)
    if known is not None:
        raise UnsupportedPixels(known)
    raise NotAnImage
