"""Greyscale TIFF pages that Pillow does not read: unusual depths, inverted 16 bits, and alpha."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from db.jobs.problems import CorruptImage, UnsupportedPixels
from worker.imaging.rasters.grey import squeeze_values
from worker.imaging.rasters.pillow import load, open_image, turn_upright
from worker.imaging.rasters.tiff_directory import IN_PLANES, Directory, Tag

#: TIFF 6.0: PhotometricInterpretation with 0 for white (section 8), and differences of neighbours (section
#: 14), which only some compressions have.
_WHITE_IS_ZERO, _DIFFERENCES = 0, 2
_WITH_DIFFERENCES = frozenset({5, 8, 32946, 34925, 50000})
_CCITT = frozenset({2, 3, 4})

#: Rows that are unpacked at a time: bits take eight times the memory.
_ROWS = 64


def read_grey(content: bytes, page: Directory) -> NDArray[np.uint8]:
    """Return the picture in a greyscale page of 1 to 16 bits, uint8 (224, 224, 3). Alpha is ignored.

    The caller has checked the size. Pillow decompresses the page as one of bytes, which become samples here.
    Raises CorruptImage, UnsupportedPixels.
    """
    width, _ = page.size
    bits = page.integer(Tag.BITS, 1)
    if page.integer(Tag.COMPRESSION, 1) in _CCITT:
        raise CorruptImage("CCITT")
    samples = page.integer(Tag.SAMPLES, 1) if page.integer(Tag.PLANAR, 1) != IN_PLANES else 1
    values = _samples(_rows(content, page, samples * bits), page.order, bits)
    if values.shape[1] < width * samples:
        raise CorruptImage
    values = values[:, : width * samples].reshape(-1, width, samples)
    if page.integer(Tag.PREDICTOR, 1) != 1 and page.integer(Tag.COMPRESSION, 1) in _WITH_DIFFERENCES:
        values = _sum_up(values, page, bits)
    upright = turn_upright(
        Image.fromarray(np.ascontiguousarray(values[:, :, 0])), page.integer(Tag.ORIENTATION, 1)
    )
    white_is_zero = page.integer(Tag.PHOTOMETRIC) == _WHITE_IS_ZERO
    return squeeze_values(np.asarray(upright), bits, white_is_zero=white_is_zero)


def _rows(content: bytes, page: Directory, pixel_bits: int) -> NDArray[np.uint8]:
    """Return the page's rows as bytes, uint8 (height, bytes of a row)."""

    def row_bytes(pixels: int) -> int:
        return (pixels * pixel_bits + 7) // 8

    width, _ = page.size
    changed: dict[int, tuple[int, ...] | None] = {
        Tag.WIDTH: (row_bytes(width),),
        Tag.BITS: (8,),
        **dict.fromkeys((Tag.PHOTOMETRIC, Tag.SAMPLES, Tag.PLANAR), (1,)),
        **dict.fromkeys((Tag.PREDICTOR, Tag.EXTRA_SAMPLES, Tag.SAMPLE_FORMAT, Tag.ORIENTATION)),
    }
    if page.is_tiled:
        tile = page.integer(Tag.TILE_WIDTH)
        if tile * pixel_bits % 8:
            raise CorruptImage(f"TIFF tag {Tag.TILE_WIDTH}")
        changed[Tag.TILE_WIDTH] = (row_bytes(tile),)
    # If samples lie in planes, the first plane is the grey.
    for tag in (Tag.STRIPS, Tag.STRIP_BYTES, Tag.TILES, Tag.TILE_BYTES):
        if tag in page.fields:
            changed[tag] = page.integers(tag)[: page.pieces]
    image = load(open_image(TiffImageFile, "TIFF", page.as_file(content, changed)))
    return np.asarray(image)


def _samples(rows: NDArray[np.uint8], order: str, bits: int) -> NDArray[np.unsignedinteger]:
    """Return the samples of 1 to 16 bits that rows of bytes hold, at least as many as a row has."""
    if bits == 8:
        return rows
    if bits == 16:
        return rows.view(f"{order}u2").astype(np.uint16, copy=False)
    return np.concatenate([_unpack(rows[at : at + _ROWS], bits) for at in range(0, len(rows), _ROWS)])


def _unpack(rows: NDArray[np.uint8], bits: int) -> NDArray[np.uint16]:
    """Return samples that are packed without a gap, the first bit the highest, whatever the byte order."""
    unpacked = np.unpackbits(rows, axis=1)
    count = unpacked.shape[1] // bits
    words = np.zeros((len(rows), count, 16), np.uint8)
    words[:, :, 16 - bits :] = unpacked[:, : count * bits].reshape(len(rows), count, bits)
    return np.packbits(words, axis=2).view(">u2")[:, :, 0].astype(np.uint16)


def _sum_up(values: NDArray[np.unsignedinteger], page: Directory, bits: int) -> NDArray[np.unsignedinteger]:
    """Return samples (height, width, samples) of which the file has differences (section 14)."""
    if page.integer(Tag.PREDICTOR) != _DIFFERENCES or bits not in (8, 16):
        raise UnsupportedPixels(f"TIFF, predictor {page.integer(Tag.PREDICTOR)} of {bits} bits")
    width = values.shape[1]
    tile = page.integer(Tag.TILE_WIDTH) if page.is_tiled else width
    # Each row of each tile begins with a whole value.
    return np.concatenate(
        [
            np.add.accumulate(values[:, at : at + tile], axis=1, dtype=values.dtype)
            for at in range(0, width, tile)
        ],
        axis=1,
    )
