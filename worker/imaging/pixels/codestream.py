"""The size and precision that a compressed image declares, read before it is decoded."""

from __future__ import annotations

import struct
from dataclasses import dataclass

#: Markers of JPEG (ISO/IEC 10918-1 table B.1), JPEG-LS (ISO/IEC 14495-1 table C.1) and JPEG 2000
#: (ISO/IEC 15444-1 table A.2).
_START_OF_IMAGE, _START_OF_CODESTREAM_AND_SIZE = b"\xff\xd8", b"\xff\x4f\xff\x51"
_START_OF_TILE_PART = b"\xff\x90"

#: The process of each marker that begins a frame header.
_PROCESSES = {
    0xC0: "JPEG",
    0xC1: "JPEG",
    0xC2: "JPEG progressive",
    0xC3: "JPEG lossless",
    **dict.fromkeys((0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF), "JPEG hierarchical"),
    **dict.fromkeys((0xC9, 0xCA, 0xCB), "JPEG arithmetic"),
    0xF7: "JPEG-LS",
}

#: Segments that may stand beside the frame header before the first scan: tables, restart interval,
#: application data, JPEG-LS parameters, comments.
_TABLES = frozenset({0xC4, 0xCC, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xF8, 0xFE})
_FILL, _START_OF_SCAN = 0xFF, 0xDA


@dataclass(frozen=True, slots=True, kw_only=True)
class Codestream:
    """The size and precision of a compressed image, from its own header."""

    #: One of JPEG (baseline or extended), JPEG progressive, JPEG lossless, JPEG hierarchical, JPEG
    #: arithmetic, JPEG-LS and JPEG 2000 (with HTJ2K).
    process: str
    width: int
    height: int
    components: int
    #: Bits of a sample.
    precision: int
    #: Whether samples are two's complement. Only JPEG 2000 declares it.
    signed: bool = False


def read_codestream(frame: bytes) -> Codestream | None:
    """Return what a JPEG, JPEG-LS or JPEG 2000 frame declares, None for any other frame."""
    try:
        if frame.startswith(_START_OF_IMAGE):
            return _read_jpeg(frame)
        start = _start_of_jpeg2000(frame)
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
        if marker in _PROCESSES and found is None:
            precision, height, width, components = struct.unpack_from(">BHHB", frame, at + 4)
            found = Codestream(
                process=_PROCESSES[marker],
                width=width,
                height=height,
                components=components,
                precision=precision,
            )
        elif marker not in _TABLES:
            return None
        at += 2 + struct.unpack_from(">H", frame, at + 2)[0]
    return None


def _start_of_jpeg2000(frame: bytes) -> int:
    """Return where the codestream begins, -1 if there is none: some writers store a whole JP2 file."""
    return frame.find(_START_OF_CODESTREAM_AND_SIZE, 0, 4096)


def _read_jpeg2000(frame: bytes, start: int) -> Codestream:
    """Read the image and tile size (ISO/IEC 15444-1 A.5.1)."""
    right, bottom, left, top = struct.unpack_from(">4L", frame, start + 8)
    components, depth = struct.unpack_from(">HB", frame, start + 40)
    return Codestream(
        process="JPEG 2000",
        width=right - left,
        height=bottom - top,
        components=components,
        precision=(depth & 0x7F) + 1,
        signed=depth >= 0x80,
    )


def data_ends(frame: bytes) -> int:
    """Return where the last tile-part of a JPEG 2000 frame ends, by its own length (ISO/IEC 15444-1 A.4.2).

    Returns 0 if that is not known.
    """
    try:
        # The segments of the main header, then the tile-parts. Each tells its length.
        at = _start_of_jpeg2000(frame) + 2
        while frame[at : at + 2] != _START_OF_TILE_PART:
            at += 2 + struct.unpack_from(">H", frame, at + 2)[0]
        while frame[at : at + 2] == _START_OF_TILE_PART:
            length = struct.unpack_from(">L", frame, at + 6)[0]
            if length < 14:
                return 0
            at += length
    except struct.error:
        return 0
    return at
