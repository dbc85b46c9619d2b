"""The compressed frame of a DICOM image."""

from __future__ import annotations

import struct

from db.jobs.problems import CorruptImage
from worker.imaging.pixels.codestream import Codestream, data_ends, read_codestream
from worker.imaging.pixels.layout import Layout

#: Item and Sequence Delimitation Item (PS3.5 A.4), as little-endian numbers.
_ITEM, _DELIMITER = 0xE000FFFE, 0xE0DDFFFE

_START_OF_JPEG, _END = b"\xff\xd8\xff", b"\xff\xd9"

#: Entropy-coded data of no meaning. It becomes the pixels that are missing at the end of a JPEG frame.
_ANY_DATA = bytes(range(0xFE, 0, -2))


def join_fragments(encapsulated: bytes) -> bytes:
    """Return the one frame in encapsulated Pixel Data (PS3.5 A.4).

    The Basic Offset Table is not used: one frame is all of the fragments, whatever the table lists.
    Raises CorruptImage if a fragment is cut off or the fragments are more than one frame.
    """
    fragments = _items(encapsulated)[1:]
    if not fragments:
        raise CorruptImage("PixelData")
    # A frame of JPEG begins with a marker, one of RLE with the number of its segments and their place.
    begins = fragments[0][: 3 if fragments[0].startswith(_START_OF_JPEG) else 8]
    if any(fragment.startswith(begins) for fragment in fragments[1:]):
        raise CorruptImage("NumberOfFrames")
    return b"".join(fragments)


def _items(encapsulated: bytes) -> list[bytes]:
    """Return the values of the items: the Basic Offset Table, then the fragments."""
    found, at = [], 0
    while at + 8 <= len(encapsulated):
        tag, length = struct.unpack_from("<LL", encapsulated, at)
        if tag == _DELIMITER:
            break
        at += 8
        if tag != _ITEM or at + length > len(encapsulated):
            raise CorruptImage("PixelData")
        found.append(encapsulated[at : at + length])
        at += length
    return found


def check_frame(frame: bytes, layout: Layout) -> Codestream:
    """Return what a compressed frame declares. Raises CorruptImage if it contradicts the header.

    A decoder trusts the frame, not the header: a frame of 60,000 x 60,000 pixels under a header of 100 x 100
    would take all memory.
    """
    found = read_codestream(frame)
    if found is None:
        raise CorruptImage
    if (found.width, found.height, found.components) != (layout.columns, layout.rows, layout.samples):
        raise CorruptImage("size")
    if found.precision > layout.allocated:
        raise CorruptImage("precision")
    return found


def end_frame(frame: bytes, found: Codestream) -> tuple[bytes, ...]:
    """Return a frame with its end-of-image marker, if that alone is missing.

    Decoders of JPEG-LS count the pixels that they find, and JPEG 2000 declares the length of its data.
    Decoders of other JPEG frames make up missing pixels from the data that follow. So two frames are
    returned, with different data before the marker: they decode alike only if no pixel is missing.
    """
    data = frame.rstrip(b"\0")
    if data.endswith(_END):
        return (frame,)
    # Half a marker. No entropy-coded byte is 0xFF without a byte after it.
    data = data.removesuffix(b"\xff")
    if found.process == "JPEG-LS":
        return (data + _END,)
    if found.process == "JPEG 2000":
        end = data_ends(frame)
        whole = end > 0 and frame[end:] in (b"", b"\0", b"\xff", b"\xff\0")
        return (frame[:end] + _END if whole else frame,)
    return data + _END, data + _ANY_DATA + _END
