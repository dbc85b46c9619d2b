"""JPEG, PNG, TIFF and BMP files."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from db.jobs.problems import CorruptImage, MultiFrame, NotAnImage, UnsupportedPixels
from worker.files.silence import silence_libraries
from worker.imaging.limits import Limits
from worker.imaging.picture import squeeze, squeeze_grey

#: The first bytes of each format, and its reader. `Image.open` is not used: its limit on pixels holds for
#: the whole process, not only for our code.
_READERS: dict[bytes, type[ImageFile]] = {
    b"\xff\xd8\xff": JpegImageFile,
    b"\x89PNG\r\n\x1a\n": PngImageFile,
    b"II*\0": TiffImageFile,
    b"MM\0*": TiffImageFile,
    b"II+\0": TiffImageFile,
    b"MM\0+": TiffImageFile,
    b"BM": BmpImageFile,
}

#: Pillow's modes that convert to RGB. The others are CIELAB, and floats, signed or 32-bit numbers: the file
#: does not say which of these are black and white.
_BYTES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
_SIXTEEN_BITS = frozenset({"I;16", "I;16L", "I;16B"})

#: TIFF 6.0, section 8.
_BITS_PER_SAMPLE, _PHOTOMETRIC, _MIN_IS_WHITE = 258, 262, 0

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


def decode_raster(content: bytes, limits: Limits) -> NDArray[np.uint8]:
    """Return the picture in a raster file as uint8 (224, 224, 3).

    EXIF's orientation is applied, transparency is ignored. 16-bit greyscale is scaled by its known range.
    Raises NotAnImage, CorruptImage, TooManyPixels, TooFewPixels, MultiFrame, UnsupportedPixels.
    """
    silence_libraries()
    image = _open(content)
    limits.check(*image.size)
    if image.mode not in _BYTES | _SIXTEEN_BITS:
        raise UnsupportedPixels
    white, inverted = _grey_scale(image)
    upright = _load(image)
    if upright.mode in _SIXTEEN_BITS:
        grey = np.asarray(upright).astype(np.float32) / np.float32(white)
        return squeeze_grey(1 - grey if inverted else grey)
    return squeeze(upright if upright.mode in ("L", "RGB") else upright.convert("RGB"))


def _open(content: bytes) -> ImageFile:
    """Read a file's header. Raises NotAnImage, CorruptImage, MultiFrame."""
    reader = next((reader for start, reader in _READERS.items() if content.startswith(start)), None)
    if reader is None:
        raise NotAnImage
    try:
        image = reader(BytesIO(content))
        several = _has_second_frame(image)
    except Exception as error:
        # Pillow's readers raise all kinds of errors for damaged files.
        raise CorruptImage from error
    if several:
        raise MultiFrame
    return image


def _has_second_frame(image: ImageFile) -> bool:
    """Tell whether there are several pages or an animation. If there is one frame, it stays selected."""
    try:
        image.seek(1)
    except EOFError:
        return False
    return True


def _load(image: ImageFile) -> Image.Image:
    """Return an image decoded and upright. Raises CorruptImage."""
    try:
        image.load()
        # Pillow's TIFF reader has turned the image already: then no orientation is left here.
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except MemoryError:
        raise
    except Exception as error:
        # Pillow's decoders raise all kinds of errors for damaged files.
        raise CorruptImage from error
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _grey_scale(image: ImageFile) -> tuple[int, bool]:
    """Return the largest value of 16-bit greyscale, and whether it stands for black instead of white."""
    if not isinstance(image, TiffImageFile):
        # PNG's samples fill their range, whatever the sBIT chunk says (PNG, third edition, 12.4).
        return 2**16 - 1, False
    bits = image.tag_v2.get(_BITS_PER_SAMPLE, (16,))
    # Pillow inverts such images of 8 bits itself, but not those of 16 bits.
    return 2 ** min(int(bits[0]), 16) - 1, image.tag_v2.get(_PHOTOMETRIC) == _MIN_IS_WHITE
