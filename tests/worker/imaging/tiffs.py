"""TIFF files of every kind, written byte by byte (TIFF 6.0 section 2)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

#: Tags that tests name.
SUBFILE_TYPE, BITS, COMPRESSION, PHOTOMETRIC, ORIENTATION = 254, 258, 259, 262, 274
SAMPLES, PLANAR, PREDICTOR, TILE_WIDTH, TILE_LENGTH, SAMPLE_FORMAT = 277, 284, 317, 322, 323, 339

DEFLATE, DIFFERENCES, IN_PLANES = 8, 2, 2


@dataclass(frozen=True, kw_only=True)
class Page:
    """One page: the bytes of its strips or tiles, and its tags."""

    width: int
    height: int
    pieces: list[bytes]
    tags: Mapping[int, int] = field(default_factory=dict)

    def values(self, places: list[int]) -> dict[int, list[int]]:
        """Return all tags, with the places of the pieces in the file."""
        tiled = TILE_WIDTH in self.tags
        return {
            256: [self.width],
            257: [self.height],
            BITS: [8],
            COMPRESSION: [1],
            PHOTOMETRIC: [1],
            324 if tiled else 273: places,
            SAMPLES: [1],
            325 if tiled else 279: [len(piece) for piece in self.pieces],
            **({} if tiled else {278: [self.height]}),
            **{tag: [value] for tag, value in self.tags.items()},
        }


def tiff(*pages: Page, order: str = "<", big: bool = False, below: tuple[Page, ...] = ()) -> bytes:
    """Return a file with these pages; `below` are directories that the first page names (tag 330)."""
    place, count, entry = ("Q", "Q", "HHQ") if big else ("I", "H", "HHI")
    inline = struct.calcsize("=" + place)
    content = bytearray((b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42))
    if big:
        content += struct.pack(order + "HH", 8, 0)
    link = len(content)
    content += bytes(inline)

    def write(page: Page, children: list[int]) -> tuple[int, int]:
        """Append a page; return where it is, and where the place of the next one goes."""
        places = []
        for piece in page.pieces:
            places.append(len(content))
            content.extend(piece + bytes(len(piece) % 2))
        values = page.values(places) | ({330: children} if children else {})
        fields = []
        for tag, numbers in sorted(values.items()):
            data = struct.pack(f"{order}{len(numbers)}I", *numbers)
            if len(data) > inline:
                at = len(content)
                content.extend(data)
                data = struct.pack(order + place, at)
            fields.append(struct.pack(order + entry, tag, 4, len(numbers)) + data.ljust(inline, b"\0"))
        at = len(content)
        content.extend(struct.pack(order + count, len(fields)) + b"".join(fields) + bytes(inline))
        return at, len(content) - inline

    children = [write(page, [])[0] for page in below]
    for number, page in enumerate(pages):
        at, following = write(page, children if number == 0 else [])
        struct.pack_into(order + place, content, link, at)
        link = following
    return bytes(content)


def grey(
    pixels: np.ndarray,
    *,
    order: str = "<",
    tile: int = 0,
    strips: int = 1,
    deflate: bool = False,
    **tags: int,
) -> Page:
    """Return a page of 8 or 16 bits from (height, width) or, with alpha, (height, width, 2)."""
    pixels = pixels.astype(pixels.dtype.newbyteorder(order))
    height, width = pixels.shape[:2]
    numbers = {int(name.lstrip("_")): value for name, value in tags.items()}
    numbers |= {BITS: 8 * pixels.itemsize, SAMPLES: pixels.shape[2] if pixels.ndim == 3 else 1}
    if tile:
        numbers |= {TILE_WIDTH: tile, TILE_LENGTH: tile}
        margin = [(0, -height % tile), (0, -width % tile)] + [(0, 0)] * (pixels.ndim - 2)
        whole = np.pad(pixels, margin)
        blocks = [
            whole[y : y + tile, x : x + tile] for y in range(0, height, tile) for x in range(0, width, tile)
        ]
    else:
        rows = -(-height // strips)
        numbers[278] = rows
        blocks = [pixels[at : at + rows] for at in range(0, height, rows)]
    if numbers.get(PLANAR) == IN_PLANES:
        blocks = [block[:, :, sample] for sample in range(pixels.shape[2]) for block in blocks]
    if deflate:
        numbers[COMPRESSION] = DEFLATE
        if numbers.get(PREDICTOR) == DIFFERENCES:
            blocks = [_differences(block).astype(pixels.dtype) for block in blocks]
    pieces = [np.ascontiguousarray(block).tobytes() for block in blocks]
    return Page(
        width=width,
        height=height,
        pieces=[zlib.compress(piece) for piece in pieces] if deflate else pieces,
        tags=numbers,
    )


def packed(pixels: np.ndarray, bits: int, **tags: int) -> Page:
    """Return a page whose samples of any number of bits follow each other without a gap in each row."""
    height, width = pixels.shape
    places = np.arange(bits - 1, -1, -1)
    unpacked = ((pixels[:, :, None] >> places) & 1).astype(np.uint8)
    rows = np.packbits(unpacked.reshape(height, width * bits), axis=1)
    numbers = {int(name.lstrip("_")): value for name, value in tags.items()}
    return Page(width=width, height=height, pieces=[rows.tobytes()], tags={BITS: bits, **numbers})


def _differences(block: np.ndarray) -> np.ndarray:
    native = block.astype(block.dtype.newbyteorder("="))
    return np.diff(native, axis=1, prepend=np.zeros_like(native[:, :1]))
