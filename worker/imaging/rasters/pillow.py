"""The reading of raster files with Pillow."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile

from db.jobs.problems import CorruptImage, MultiFrame, UnsupportedPixels
from worker.imaging.limits import Limits
from worker.imaging.picture import squeeze
from worker.imaging.rasters.grey import squeeze_values

#: Pillow's modes that convert to RGB. The others are CIELAB, and floats, signed or 32-bit numbers: the file
#: does not say which of these are black and white.
_BYTES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
_SIXTEEN_BITS = frozenset({"I;16", "I;16L", "I;16B"})

#: EXIF 2.32, section 4.6.4 A: how a picture is turned upright. 1 is upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

#: What Pillow says of a file that is whole, and of a kind that it does not read.
_UNSUPPORTED = ("unsupported", "cannot handle", "unknown pixel mode", "unknown data organization")


def read_bmp(content: bytes, limits: Limits) -> NDArray[np.uint8]:
    """Return the picture in a BMP file, uint8 (224, 224, 3). Raises the errors of `read_with_pillow`."""
    return read_with_pillow(BmpImageFile, "BMP", BytesIO(content), limits)


def read_with_pillow(
    reader: type[ImageFile], form: str, stream: BytesIO, limits: Limits
) -> NDArray[np.uint8]:
    """Return the picture in a file of a format, uint8 (224, 224, 3).

    `Image.open` is not used: its limit on pixels holds for the whole process, not only for our code. Raises
    CorruptImage, MultiFrame, UnsupportedPixels, TooManyPixels, TooFewPixels.
    """
    image = open_image(reader, form, stream)
    limits.check(*image.size)
    if image.mode not in _BYTES | _SIXTEEN_BITS:
        raise UnsupportedPixels(f"{form}, {image.mode}")
    upright = turn_upright(load(image), orientation_of(image))
    if upright.mode in _SIXTEEN_BITS:
        return squeeze_values(np.asarray(upright), 16)
    return squeeze(upright if upright.mode in ("L", "RGB") else upright.convert("RGB"))


def open_image(reader: type[ImageFile], form: str, stream: BytesIO) -> ImageFile:
    """Read a file's header. Raises CorruptImage, UnsupportedPixels, MultiFrame."""
    try:
        image = reader(stream)
        several = _has_second_frame(image)
    except Exception as error:
        # Pillow's readers raise all kinds of errors for damaged files.
        said = str(error)
        if said.lower().startswith(_UNSUPPORTED):
            raise UnsupportedPixels(f"{form}: {said[:60]}") from error
        raise CorruptImage from error
    if several:
        raise MultiFrame
    return image


def load(image: ImageFile) -> Image.Image:
    """Return an image decoded. Raises CorruptImage."""
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:
        # Pillow's decoders raise all kinds of errors for damaged files.
        raise CorruptImage from error
    return image


def orientation_of(image: Image.Image) -> object:
    """Return EXIF's orientation, None if there is none. Raises CorruptImage.

    Pillow's TIFF reader has turned the loaded image already: then no orientation is left here.
    """
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except MemoryError:
        raise
    except Exception as error:
        # Damaged EXIF raises all kinds of errors, too.
        raise CorruptImage from error


def turn_upright(image: Image.Image, orientation: object) -> Image.Image:
    """Return an image turned as EXIF's orientation says; any other value says nothing."""
    turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _has_second_frame(image: ImageFile) -> bool:
    """Tell whether there are several pages or an animation. If there is one frame, it stays selected."""
    try:
        image.seek(1)
    except EOFError:
        return False
    return True
