"""The look-up tables of a DICOM header."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from db.jobs.problems import CorruptImage
from worker.imaging.elements import element, items, numbers

if TYPE_CHECKING:
    from pydicom import Dataset

Values = NDArray[np.float64]

#: A table may lack this share of its entries, and one entry in any case: some devices count one too many.
_MISSING_SHARE = 0.01

#: If a descriptor says 16 bits and the greatest entry needs 14 or less, the table has the bits that it needs,
#: 8 at least: devices write 16, the size of the word.
_OVERSTATED, _FEWEST_BITS, _MOST_BITS = 16, 8, 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Lut:
    """A Modality or VOI LUT (PS3.3 C.11.1.1 and C.11.2.1.1)."""

    #: What each value is mapped to.
    entries: Values
    #: The value that the first entry is for, as the descriptor says it.
    first: int
    #: The bits of the output: 0 to 2 ** bits - 1 is its range.
    bits: int

    @property
    def range(self) -> tuple[float, float]:
        """The least and the greatest value that the table can give."""
        return 0.0, 2.0**self.bits - 1

    def look_up(self, values: Values, least: float) -> Values:
        """Map values, of which none is below `least`. Values beyond the table get its first or last entry."""
        first = self.first
        if first >= 2**15 and least < 0:
            # The first value is signed if the values are, however the reader has interpreted its two bytes.
            first -= 2**16
        places = np.clip(np.rint(values) - first, 0, len(self.entries) - 1).astype(np.int64)
        return np.asarray(self.entries[places])


def first_lut(header: Dataset, keyword: str) -> Lut | None:
    """Return the first table of a sequence that is not empty; None if there is none.

    Raises CorruptImage if descriptor and data contradict each other.
    """
    for item in items(header, keyword):
        described = numbers(item, "LUTDescriptor")
        data = element(item, "LUTData")
        if described or _has_data(data):
            return _read(item, described)
    return None


def _has_data(data: object) -> bool:
    return data is not None and data not in ("", b"", [])


def _read(item: Dataset, described: tuple[float, ...]) -> Lut:
    if len(described) != 3 or not 1 <= described[2] <= 16:
        raise CorruptImage("LUTDescriptor")
    count, first, bits = (int(value) for value in described)
    # 65,536 does not fit the element and is written as 0. Large numbers that are read as signed are negative.
    entries = _entries(_bytes(item), count % 2**16 or 2**16, bits)
    return Lut(entries=entries.astype(np.float64), first=first, bits=_bits(int(entries.max()), bits))


def _bytes(item: Dataset) -> bytes:
    """Return LUT Data as little-endian words."""
    data = element(item, "LUTData")
    if isinstance(data, bytes):
        # Words in the byte order of the file.
        big = item.original_encoding[1] is False
        return np.frombuffer(data[: len(data) // 2 * 2], ">u2").astype("<u2").tobytes() if big else data
    return np.array(numbers(item, "LUTData")).astype(np.int64).astype("<u2").tobytes()


def _entries(data: bytes, count: int, bits: int) -> NDArray[np.integer]:
    """Return the entries: words, or bytes if there are as many bytes and they are enough for the bits.

    A table that is longer than it says is used whole, as in dcmtk. Raises CorruptImage if more entries are
    missing than `_MISSING_SHARE`.
    """
    fewest = count - max(1, int(count * _MISSING_SHARE))
    if len(data) // 2 >= count:
        return np.frombuffer(data[: len(data) // 2 * 2], "<u2")
    if bits <= 8 and count <= len(data) <= count + 1:
        return np.frombuffer(data, "u1", count)
    if len(data) // 2 >= max(fewest, 1):
        return np.frombuffer(data[: len(data) // 2 * 2], "<u2")
    if bits <= 8 and fewest <= len(data) < count:
        return np.frombuffer(data, "u1")
    raise CorruptImage("LUTData")


def _bits(greatest: int, described: int) -> int:
    """Return the bits of a table's output: what its greatest entry needs, if the descriptor is wrong."""
    needed = greatest.bit_length()
    if needed > described:
        return needed
    if described == _OVERSTATED and 0 < needed <= _MOST_BITS:
        return max(needed, _FEWEST_BITS)
    return described
