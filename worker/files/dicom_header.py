"""The reading of a few elements of a DICOM header, in little memory whatever the header declares."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, BinaryIO, cast

from db.jobs.problems import CorruptImage
from worker.files.silence import silence_libraries

if TYPE_CHECKING:
    from pydicom import Dataset

#: A DICOM file begins with 128 free bytes and these four (PS3.10 section 7.1).
PREAMBLE, MAGIC = 128, b"DICM"

#: Largest number of bytes that are read of a header, and that a deflated header is inflated to. Elements
#: that are skipped do not count: private elements of any size may come before the wanted ones.
HEAD_BYTES = 1 << 20

#: Longest value that is read, in bytes: a UID or a Patient ID has 64 characters (PS3.5 section 6.2).
_LONGEST_VALUE = 1 << 10

_CHARACTER_SET = 0x0008_0005


def read_elements(stream: BinaryIO, keywords: Sequence[str]) -> Dataset:
    """Return the elements with these keywords that a header has; `file_meta` is its group 0002.

    Raises CorruptImage if a wanted element is too long, or if too many bytes must be read to find it. A
    damaged header also makes pydicom raise errors of all kinds, among them OSError without a number.
    """
    from pydicom.filereader import read_partial
    from pydicom.tag import Tag

    # After the import, which sets the level of pydicom's logger.
    silence_libraries()
    wanted = _Wanted([int(Tag(keyword)) for keyword in keywords])
    header = _deflated(stream, wanted)
    if header is None:
        stream.seek(0)
        bounded = cast("BinaryIO", _Bounded(stream))
        header = read_partial(bounded, wanted.are_behind, force=True, specific_tags=wanted.tags)
    return header


class _Wanted:
    """The wanted elements. Every data set has its elements in the order of their tags."""

    def __init__(self, tags: list[int]) -> None:
        self.tags = tags
        self._short = {_CHARACTER_SET, *tags}
        self._last = max(tags)

    def are_behind(self, tag: int, _vr: str | None, length: int) -> bool:
        """Tell whether no more of them can follow. Raises CorruptImage for one that is too long."""
        if tag in self._short and length > _LONGEST_VALUE:
            raise CorruptImage
        return tag > self._last


class _Bounded:
    """A stream of which at most HEAD_BYTES are read."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._left = stream, HEAD_BYTES
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes. Raises CorruptImage, before it reads them, if they are too many."""
        if not 0 <= size <= self._left:
            raise CorruptImage
        content = self._stream.read(size)
        self._left -= len(content)
        return content


def _deflated(stream: BinaryIO, wanted: _Wanted) -> Dataset | None:
    """Return the beginning of a deflated file's header (PS3.5 A.5), None for any other file.

    pydicom would inflate the whole file first, and a few megabytes can inflate to more than memory holds.
    """
    from io import BytesIO

    from pydicom.dataset import FileMetaDataset
    from pydicom.filereader import read_dataset
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    stream.seek(0)
    if stream.read(PREAMBLE + len(MAGIC))[PREAMBLE:] != MAGIC:
        return None
    bounded = cast("BinaryIO", _Bounded(stream))
    meta = read_dataset(bounded, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return None
    head = zlib.decompressobj(-zlib.MAX_WBITS).decompress(stream.read(HEAD_BYTES), HEAD_BYTES)
    inflated = cast("BinaryIO", _Bounded(BytesIO(head)))
    header = read_dataset(inflated, False, True, stop_when=wanted.are_behind, specific_tags=wanted.tags)
    header.file_meta = FileMetaDataset(meta)
    return header
