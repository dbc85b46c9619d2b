"""JPEG 2000 files: JP2 files and codestreams."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile

from db.jobs.problems import CorruptImage, MultiFrame, UnsupportedPixels
from worker.imaging.limits import Limits
from worker.imaging.pixels.codestream import read_codestream
from worker.imaging.rasters.frame import read_frame
from worker.imaging.rasters.pillow import read_with_pillow

if TYPE_CHECKING:
    from pydicom.uid import UID

#: A codestream begins with these markers (ISO/IEC 15444-1 A.4.1 and A.5.1).
_CODESTREAM = b"\xff\x4f\xff\x51"

#: Enumerated colour spaces that are shown: sRGB, greyscale, sYCC (I.5.3.3). JPX files have more.
_YCC = 18
_SHOWN = frozenset({16, 17, _YCC})
_SPACES = {0: "bi-level", 12: "CMYK", 13: "YCCK", 14: "CIELab", 20: "e-sRGB", 21: "ROMM-RGB"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """What the boxes of a JP2 file tell."""

    codestream: bytes
    #: The enumerated colour space; None if there is none.
    space: int | None = None
    has_palette: bool = False


def read_jpeg2000(content: bytes, limits: Limits) -> NDArray[np.uint8]:
    """Return the picture in a JPEG 2000 file, uint8 (224, 224, 3).

    Raises CorruptImage, MultiFrame, UnsupportedPixels, NoDecoder, TooManyPixels, TooFewPixels.
    """
    file = _File(codestream=content) if content.startswith(_CODESTREAM) else _unpack(content)
    found = read_codestream(file.codestream)
    if found is None:
        raise CorruptImage
    limits.check(found.width, found.height)
    if file.space is not None and file.space not in _SHOWN:
        raise UnsupportedPixels(f"JPEG 2000, {_SPACES.get(file.space, f'colour space {file.space}')}")
    if found.components == 1 and not file.has_palette:
        return read_frame(file.codestream, found, _syntax())
    if found.precision == 8 and not found.signed:
        return read_with_pillow(Jpeg2KImageFile, "JPEG 2000", BytesIO(content), limits)
    # Pillow rounds the largest values of deeper colour up to 256, which is 0.
    if found.components == 3 and not found.signed and file.space != _YCC:
        return read_frame(file.codestream, found, _syntax())
    raise UnsupportedPixels(f"JPEG 2000, {found.components} components of {found.precision} bits")


def _syntax() -> UID:
    from pydicom.uid import JPEG2000

    return JPEG2000


def _unpack(content: bytes) -> _File:
    """Return what a JP2 file holds (ISO/IEC 15444-1 annex I). Raises CorruptImage, MultiFrame."""
    codestreams: list[bytes] = []
    space, has_palette = None, False
    for kind, start, end in _boxes(content, 0, len(content)):
        if kind == b"jp2c":
            codestreams.append(content[start:end])
        elif kind == b"jp2h":
            for inner, at, _ in _boxes(content, start, end):
                has_palette = has_palette or inner == b"pclr"
                # Method 1 is an enumerated space. The first box that can be read counts (I.5.3.3).
                if inner == b"colr" and space is None and content[at : at + 1] == b"\x01":
                    space = int.from_bytes(content[at + 3 : at + 7], "big")
    if not codestreams:
        raise CorruptImage
    if len(codestreams) > 1:
        raise MultiFrame
    return _File(codestream=codestreams[0], space=space, has_palette=has_palette)


def _boxes(content: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the type of each box, and where its contents begin and end (I.4).

    The last one may be cut off: a decoder finds that its codestream is not whole.
    """
    while start + 8 <= end:
        length, kind = struct.unpack_from(">I4s", content, start)
        head = 8
        if length == 1 and start + 16 <= end:
            length, head = struct.unpack_from(">Q", content, start + 8)[0], 16
        elif length == 0:
            length = end - start
        if length < head:
            raise CorruptImage
        yield kind, start + head, min(start + length, end)
        start += length
