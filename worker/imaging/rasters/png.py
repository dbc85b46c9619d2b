"""PNG files."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL.PngImagePlugin import PngImageFile

from worker.imaging.limits import Limits
from worker.imaging.rasters.grey import squeeze_values
from worker.imaging.rasters.pillow import load, open_image, orientation_of, read_with_pillow, turn_upright

#: Where the header chunk has bit depth and colour type, and where it ends (PNG, third edition, 11.2.1). It
#: always comes first.
_DEPTH, _CHECKSUM = 24, 29

#: Bit depth and colour type of 16-bit greyscale with alpha, and of RGBA of 8 bits.
_DEEP_WITH_ALPHA, _RGBA = b"\x10\x04", b"\x08\x06"


def read_png(content: bytes, limits: Limits) -> NDArray[np.uint8]:
    """Return the picture in a PNG file, uint8 (224, 224, 3). Raises the errors of `read_with_pillow`."""
    if content[_DEPTH : _DEPTH + 2] == _DEEP_WITH_ALPHA and _has_sound_header(content):
        return _read_deep_with_alpha(content, limits)
    return read_with_pillow(PngImageFile, "PNG", BytesIO(content), limits)


def _has_sound_header(content: bytes) -> bool:
    header = content[12:_CHECKSUM]
    return (
        header[:4] == b"IHDR" and struct.pack(">I", zlib.crc32(header)) == content[_CHECKSUM : _CHECKSUM + 4]
    )


def _read_deep_with_alpha(content: bytes, limits: Limits) -> NDArray[np.uint8]:
    """Read 16-bit greyscale with alpha, of which Pillow returns the high bytes alone.

    RGBA of 8 bits has as many bytes in a pixel, so its rows are filtered and interlaced in the same way. If
    the header says RGBA, red and green are the two bytes of grey, the high one first.
    """
    header = content[12:_DEPTH] + _RGBA + content[_DEPTH + 2 : _CHECKSUM]
    stream = BytesIO(content)
    stream.seek(12)
    stream.write(header + struct.pack(">I", zlib.crc32(header)))
    stream.seek(0)
    image = open_image(PngImageFile, "PNG", stream)
    limits.check(*image.size)
    upright = turn_upright(load(image), orientation_of(image))
    grey = np.ascontiguousarray(np.asarray(upright)[:, :, :2]).view(">u2")[:, :, 0]
    return squeeze_values(grey, 16)
