"""TIFF files: which page is the picture, and what of it can be read."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL.TiffImagePlugin import TiffImageFile

from db.jobs.problems import CorruptImage, MultiFrame, NoDecoder, TooManyPixels, UnsupportedPixels
from worker.imaging.limits import Limits
from worker.imaging.rasters.pillow import read_with_pillow
from worker.imaging.rasters.tiff_directory import IN_PLANES, Directory, Pages, Tag
from worker.imaging.rasters.tiff_grey import read_grey

#: Compressions that are read (TIFF 6.0, and the registry of libtiff): none, CCITT 2, 3 and 4, LZW, JPEG in
#: its old and its new form, Deflate (two numbers), PackBits, LZMA, Zstandard.
_READ = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 34925, 50000})
_OLD_JPEG, _JPEG = 6, 7
_COMPRESSIONS = {
    9: "JBIG", 10: "JBIG", 22610: "JPEG XR", 32771: "word-aligned rows", 32809: "ThunderScan",
    32908: "PixarFilm", 32909: "PixarLog", 33003: "JPEG 2000", 33004: "JPEG 2000", 33005: "JPEG 2000",
    34661: "JBIG", 34676: "SGILog", 34677: "SGILog", 34712: "JPEG 2000", 34713: "NEF", 34887: "LERC",
    34892: "lossy JPEG", 34933: "PNG", 34934: "JPEG XR", 50001: "WebP", 50002: "JPEG XL",
    52546: "JPEG XL",
}  # fmt: skip

#: Photometric interpretations (TIFF 6.0, section 8 and part 3): greyscale, and colours that Pillow converts.
_BLACK_IS_ZERO = 1
_GREY, _COLOURS = (0, _BLACK_IS_ZERO), (2, 3, 5, 6)
_PHOTOMETRICS = {
    4: "transparency mask", 8: "CIELAB", 9: "ICCLAB", 10: "ITULAB", 32803: "colour filter array",
    32844: "LogL", 32845: "LogLuv", 34892: "linear raw",
}  # fmt: skip

#: Sample formats (section 19). 4 is undefined, which is read like unsigned.
_FORMATS = {2: "signed samples", 3: "floating point", 5: "complex samples", 6: "complex samples"}
_UNSIGNED = (1, 4)

#: The bit of NewSubfileType that tells a transparency mask (TIFF 6.0 section 8).
_MASK = 4

#: A page with sides up to this is a thumbnail beside a page that is at least twice as large, whatever its
#: shape. Any other preview has the shape of the picture, give or take a tenth.
_THUMBNAIL_SIDE, _SHAPES = 256, (0.9, 1.1)


def read_tiff(content: bytes, limits: Limits) -> NDArray[np.uint8]:
    """Return the picture in a TIFF file, uint8 (224, 224, 3).

    Raises CorruptImage, MultiFrame, TooManyPixels, TooFewPixels, UnsupportedPixels, NoDecoder.
    """
    pages = Pages.read(content).directories
    page = _picture(pages)
    limits.check(*page.size)
    if page.integer(Tag.TILE_WIDTH, 1) * page.integer(Tag.TILE_LENGTH, 1) > limits.max_pixels:
        raise TooManyPixels
    _check(page)
    if page.integer(Tag.PHOTOMETRIC) in _GREY and not _is_plain(page):
        if _is_jpeg(page):
            samples, bits = page.integer(Tag.SAMPLES, 1), page.integer(Tag.BITS, 1)
            raise NoDecoder(f"TIFF, JPEG of {samples} x {bits} bits")
        return read_grey(content, page)
    is_alone = page.is_first and len(pages) == 1
    stream = BytesIO(content) if is_alone else page.as_file(content, {})
    return read_with_pillow(TiffImageFile, "TIFF", stream, limits)


def _is_plain(page: Directory) -> bool:
    """Whether Pillow reads a greyscale page in every byte order, with all of its bits."""
    bits = page.integer(Tag.BITS, 1)
    if page.integer(Tag.SAMPLES, 1) != 1:
        return False
    if bits != 16:
        return bits in (1, 2, 4, 8)
    is_upright = page.integer(Tag.PHOTOMETRIC) == _BLACK_IS_ZERO
    return is_upright and page.integer(Tag.PREDICTOR, 1) in (1, 2) and not _is_jpeg(page)


def _is_jpeg(page: Directory) -> bool:
    return page.integer(Tag.COMPRESSION, 1) in (_OLD_JPEG, _JPEG)


def _picture(pages: list[Directory]) -> Directory:
    """Return the page that is the picture. Raises MultiFrame if there are several, CorruptImage."""
    pages = [page for page in pages if not page.integer(Tag.SUBFILE_TYPE, 0) & _MASK] or pages
    full = [page for page in pages if not page.is_reduced] or pages
    picture = max(full, key=lambda page: page.size[0] * page.size[1])
    if any(page is not picture and not _is_preview(page.size, picture.size) for page in full):
        raise MultiFrame
    return picture


def _is_preview(size: tuple[int, int], full: tuple[int, int]) -> bool:
    """Whether a page that does not say so is a smaller copy of a page of `full` size."""
    if any(2 * side > whole + 1 for side, whole in zip(size, full, strict=True)):
        return False
    if max(size) <= _THUMBNAIL_SIDE:
        return True
    shape = size[0] * full[1] / (size[1] * full[0])
    return _SHAPES[0] < shape < _SHAPES[1]


def _check(page: Directory) -> None:
    """Raise UnsupportedPixels or NoDecoder, with the kind's name, for a page that is not read."""
    compression = page.integer(Tag.COMPRESSION, 1)
    if compression not in _READ:
        raise NoDecoder(f"TIFF, {_COMPRESSIONS.get(compression, f'compression {compression}')}")
    photometric = page.integer(Tag.PHOTOMETRIC, -1)
    if photometric not in _GREY + _COLOURS:
        known = _PHOTOMETRICS.get(photometric, f"photometric interpretation {photometric}")
        raise UnsupportedPixels(f"TIFF, {known if photometric >= 0 else 'no photometric interpretation'}")
    for number in page.integers(Tag.SAMPLE_FORMAT):
        if number not in _UNSIGNED:
            raise UnsupportedPixels(f"TIFF, {_FORMATS.get(number, f'sample format {number}')}")
    bits = page.integers(Tag.BITS) or (1,)
    if max(bits) > 16 or len(set(bits)) > 1:
        raise UnsupportedPixels(f"TIFF, {' and '.join(map(str, sorted(set(bits))))} bits")
    if min(bits) < 1:
        raise CorruptImage(f"TIFF tag {Tag.BITS}")
    samples = page.integer(Tag.SAMPLES, 1)
    planes = samples if page.integer(Tag.PLANAR, 1) == IN_PLANES else 1
    # Missing pieces would be black.
    places = Tag.TILES if page.is_tiled else Tag.STRIPS
    if len(page.integers(places)) < page.pieces * planes and compression != _OLD_JPEG:
        raise CorruptImage(f"TIFF tag {places}")
    if photometric in _GREY and samples > 2:
        raise UnsupportedPixels(f"TIFF, {samples} samples of greyscale")
    if photometric in _COLOURS and bits[0] > 8 and planes > 1:
        # Pillow would read the two bytes of a sample as two pixels.
        raise UnsupportedPixels(f"TIFF, colour of {bits[0]} bits in planes")
