"""JPEG, PNG, TIFF and BMP files."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from db.problems import CorruptImage, MultiFrame, NotAnImage, TooManyPixels, UnsupportedPixels
from worker.imaging.limits import Limits
from worker.imaging.picture import squeeze, squeeze_grey

_FORMATS = ("JPEG", "PNG", "TIFF", "BMP")

#: How the files of these formats begin.
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"BM")

#: TIFF 6.0, section 8.
_BITS_PER_SAMPLE, _PHOTOMETRIC, _MIN_IS_WHITE = 258, 262, 0


def decode_raster(content: bytes, limits: Limits) -> NDArray[np.uint8]:
    """Return the picture in a raster file as uint8 (224, 224, 3).

    EXIF's orientation is honoured, transparency ignored. 16-bit greyscale is scaled by its known range.
    Raises NotAnImage, CorruptImage, TooManyPixels, TooFewPixels, MultiFrame, UnsupportedPixels.
    """
    image = _open(content)
    limits.check(*image.size)
    if image.format == "TIFF" and getattr(image, "n_frames", 1) > 1:
        raise MultiFrame
    try:
        image.load()
        upright = ImageOps.exif_transpose(image)
    except Exception as error:
        # Pillow's decoders raise whatever a damaged file leads them into.
        raise CorruptImage from error
    if image.mode.startswith("I;16"):
        return squeeze_grey(_scaled(upright, image))
    if image.mode in ("I", "F"):
        # 32 bits or signed: the file does not say which range is black to white.
        raise UnsupportedPixels
    return squeeze(upright if upright.mode in ("L", "RGB") else upright.convert("RGB"))


def _open(content: bytes) -> Image.Image:
    try:
        return Image.open(BytesIO(content), formats=_FORMATS)
    except UnidentifiedImageError:
        # A file that begins as an image and goes on as none is a damaged one.
        raise (CorruptImage if content.startswith(_SIGNATURES) else NotAnImage) from None
    except Image.DecompressionBombError:
        raise TooManyPixels from None
    except Exception as error:
        raise CorruptImage from error


def _scaled(upright: Image.Image, original: Image.Image) -> NDArray[np.float32]:
    """Return 16-bit greyscale in [0, 1] by the range that the file's format gives it."""
    bits, inverted = 16, False
    if original.format == "TIFF":
        tags = original.getexif()
        bits = int(tags.get(_BITS_PER_SAMPLE, bits))
        # Pillow turns this round for 8 bits and not for 16.
        inverted = tags.get(_PHOTOMETRIC) == _MIN_IS_WHITE
    grey = np.asarray(upright).astype(np.float32) / np.float32(2**bits - 1)
    return np.float32(1) - grey if inverted else grey
