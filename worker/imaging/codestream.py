"""The size and precision that a compressed image declares, read before it is decoded."""

from __future__ import annotations

import struct
from dataclasses import dataclass

#: Markers of JPEG (ISO/IEC 10918-1 table B.1), JPEG-LS (ISO/IEC 14495-1 table C.1) and JPEG 2000
#: (ISO/IEC 15444-1 table A.2).
_START_OF_IMAGE, _START_OF_CODESTREAM_AND_SIZE = b"\xff\xd8", b"\xff\x4f\xff\x51"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
#: Segments that may stand beside the frame header before the first scan: tables, restart interval,
#: application data, JPEG-LS parameters, comments.
_TABLES = frozenset({0xC4, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xF8, 0xFE})
_FILL, _START_OF_SCAN = 0xFF, 0xDA


@dataclass(frozen=True, slots=True, kw_only=True)
class Codestream:
    """The size and precision of a compressed image, from its own header."""

    width: int
    height: int
    components: int
    #: Bits of a sample.
    precision: int


def read_codestream(frame: bytes) -> Codestream | None:
    """Return what a JPEG, JPEG-LS or JPEG 2000 frame declares, None for any other frame."""
    try:
        if frame.startswith(_START_OF_IMAGE):
            return _read_jpeg(frame)
        # Some writers store a whole JP2 file around the codestream.
        start = frame.find(_START_OF_CODESTREAM_AND_SIZE, 0, 4096)
        return None if start < 0 else _read_jpeg2000(frame, start)
    except (IndexError, struct.error):
        return None


def _read_jpeg(frame: bytes) -> Codestream | None:
    """Read the frame header (ISO/IEC 10918-1 B.2.2); None if anything but tables comes before the scan."""
    at, found = 2, None
    while frame[at] == _FILL:
        marker = frame[at + 1]
        if marker == _START_OF_SCAN:
            return found
        if marker == _FILL:
            at += 1
            continue
        if marker in _FRAMES and found is None:
            precision, height, width, components = struct.unpack_from(">BHHB", frame, at + 4)
            found = Codestream(width=width, height=height, components=components, precision=precision)
        elif marker not in _TABLES:
            return None
        at += 2 + struct.unpack_from(">H", frame, at + 2)[0]
    return None


def _read_jpeg2000(frame: bytes, start: int) -> Codestream:
    """Read the image and tile size (ISO/IEC 15444-1 A.5.1)."""
    right, bottom, left, top = struct.unpack_from(">4L", frame, start + 8)
    components, depth = struct.unpack_from(">HB", frame, start + 40)
    return Codestream(
        width=right - left, height=bottom - top, components=components, precision=(depth & 0x7F) + 1
    )
