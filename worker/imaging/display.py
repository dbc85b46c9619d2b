"""The conversion of stored values to what a radiologist's screen shows.

The order of the steps is that of PS3.4 N.2: stored values, modality LUT, VOI LUT or window, and last,
once, the polarity. They are applied to every value that a pixel can have (65,536 at most), and each pixel is
then looked up in the resulting table. This gives the same result as steps on millions of pixels, in a
fraction of the time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from db.jobs.problems import CorruptImage, UnsupportedPixels
from worker.imaging.elements import element, integer, items, numbers, text

if TYPE_CHECKING:
    from pydicom import Dataset

#: The smallest and the largest value that a step can give.
Range = tuple[float, float]
Values = NDArray[np.float64]


def display_values(stored: NDArray[np.generic], dataset: Dataset) -> NDArray[np.float32]:
    """Return what a screen shows, float32 in [0, 1] in the shape of the stored values; 0 is black.

    The scale is the known output range of the last step, never the image's own minimum and maximum:
    an underexposed image stays dark. Raises CorruptImage, UnsupportedPixels.
    """
    table = _display_table(dataset)
    # Bits above Bits Stored are not part of the value (PS3.5 8.1.1): a repeated sign, or old overlays.
    patterns = stored.astype(np.uint16) & np.uint16(len(table) - 1)
    return table.take(patterns)


def _display_table(dataset: Dataset) -> NDArray[np.float32]:
    """Return the displayed value of each pattern of the stored bits."""
    stored, stored_range = _stored(dataset)
    values, value_range = _apply_modality(stored, stored_range, dataset)
    shown = _apply_voi(values, value_range, dataset)
    # PS3.3 C.7.6.3.1.2. Presentation LUT Shape INVERSE is ignored: DX requires it together with MONOCHROME1
    # (C.8.11.3.1.2), and both stand for the same inversion.
    if text(dataset, "PhotometricInterpretation") == "MONOCHROME1":
        shown = 1 - shown
    shown[_padding(stored, stored_range, dataset)] = 0
    return shown.astype(np.float32)


def _stored(dataset: Dataset) -> tuple[Values, Range]:
    """Return the value of each pattern of the stored bits, and their range (PS3.3 C.7.6.3.1)."""
    allocated = integer(dataset, "BitsAllocated")
    bits = integer(dataset, "BitsStored", allocated)
    if not 1 <= bits <= allocated:
        raise CorruptImage("BitsStored")
    if bits > 16 or integer(dataset, "HighBit", bits - 1) != bits - 1:
        raise UnsupportedPixels
    values = np.arange(2**bits, dtype=np.float64)
    if integer(dataset, "PixelRepresentation", 0) == 1:
        # Two's complement: the upper half of the patterns are the negative values.
        values[2 ** (bits - 1) :] -= 2**bits
    return values, (float(values.min()), float(values.max()))


def _apply_modality(stored: Values, stored_range: Range, dataset: Dataset) -> tuple[Values, Range]:
    """Apply the Modality LUT or rescale slope and intercept (PS3.3 C.11.1)."""
    tables = items(dataset, "ModalityLUTSequence")
    if tables:
        return _look_up(stored, stored_range, tables[0]), _table_range(tables[0])
    slope = next(iter(numbers(dataset, "RescaleSlope")), 1.0)
    intercept = next(iter(numbers(dataset, "RescaleIntercept")), 0.0)
    if slope == 0:
        raise CorruptImage("RescaleSlope")
    low, high = sorted(end * slope + intercept for end in stored_range)
    return stored * slope + intercept, (low, high)


def _apply_voi(values: Values, value_range: Range, dataset: Dataset) -> Values:
    """Apply the first VOI LUT, else the first window, if it can be used (PS3.3 C.11.2).

    Returns values from 0 to 1. Without either, the whole range of the modality step is shown.
    """
    tables = items(dataset, "VOILUTSequence")
    if tables and element(tables[0], "LUTData"):
        values, value_range = _look_up(values, value_range, tables[0]), _table_range(tables[0])
    else:
        window = _first_window(dataset)
        if window is not None:
            return _through_window(values, *window)
    low, high = value_range
    return np.clip((values - low) / (high - low), 0, 1)


def _first_window(dataset: Dataset) -> tuple[float, float, str] | None:
    """Return centre, width and function of the first window; None if there is none or it is invalid."""
    try:
        centres, widths = numbers(dataset, "WindowCenter"), numbers(dataset, "WindowWidth")
    except CorruptImage:
        return None
    if not centres or not widths:
        return None
    function = text(dataset, "VOILUTFunction") or "LINEAR"
    # The width is at least 1 for LINEAR (C.11.2.1.2.1) and above 0 for the others (C.11.2.1.3).
    least = np.nextafter(0, 1) if function in ("LINEAR_EXACT", "SIGMOID") else 1
    return None if widths[0] < least else (centres[0], widths[0], function)


def _through_window(values: Values, centre: float, width: float, function: str) -> Values:
    """Map values through a window to [0, 1] (PS3.3 C.11.2.1.2.1, C.11.2.1.3.1 and C.11.2.1.3.2)."""
    if function == "SIGMOID":
        # The clip prevents an overflow of the exponential. Beyond it the result is 0 or 1 in any case.
        return np.asarray(1 / (1 + np.exp(np.clip(-4 * ((values - centre) / width), -700, 700))))
    if function == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0, 1)
    if width == 1:
        return np.where(values <= centre - 0.5, 0.0, 1.0)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)


def _look_up(values: Values, value_range: Range, item: Dataset) -> Values:
    """Map values through a Modality or VOI LUT (PS3.3 C.11.1.1 and C.11.2.1.1)."""
    entries, first, bits = _descriptor(item)
    if first >= 2**15 and value_range[0] < 0:
        # The first value is signed if the values are, however the reader has interpreted its two bytes.
        first -= 2**16
    data = element(item, "LUTData")
    if isinstance(data, bytes):
        # Words in the byte order of the file, or entries of 8 bits if there are too few bytes for words.
        word = ">u2" if item.original_encoding[1] is False else "<u2"
        table = np.frombuffer(data, word if len(data) >= 2 * entries else "u1")
    else:
        table = np.array(numbers(item, "LUTData")).astype(np.int64).astype(np.uint16)
        if bits <= 8 and len(table) < entries:
            # A word holds two entries of 8 bits, the first in the low byte.
            table = table.astype("<u2").view("u1")
    if len(table) < entries:
        raise CorruptImage("LUTData")
    places = np.clip(np.rint(values) - first, 0, entries - 1).astype(np.int64)
    return np.asarray(table[places], dtype=np.float64)


def _table_range(item: Dataset) -> Range:
    """Return the range of a LUT's entries, from the third value of its descriptor."""
    return 0.0, 2.0 ** _descriptor(item)[2] - 1


def _descriptor(item: Dataset) -> tuple[int, int, int]:
    """Return a LUT's number of entries, the first value that it maps, and its bits (PS3.3 C.11.1.1)."""
    described = numbers(item, "LUTDescriptor")
    if len(described) != 3 or not 1 <= described[2] <= 16:
        raise CorruptImage("LUTDescriptor")
    entries, first, bits = (int(value) for value in described)
    # 65,536 does not fit the element and is written as 0. Large numbers that are read as signed are negative.
    return entries % 2**16 or 2**16, first, bits


def _padding(stored: Values, stored_range: Range, dataset: Dataset) -> NDArray[np.bool_]:
    """Tell which values are padding around a circular or rotated field (PS3.3 C.7.5.1.1.2)."""
    first = numbers(dataset, "PixelPaddingValue")
    if not first:
        return np.zeros(stored.shape, dtype=bool)
    last = numbers(dataset, "PixelPaddingRangeLimit") or first
    ends = [first[0], last[0]]
    if stored_range[0] < 0:
        # Some devices write them as unsigned in an image of signed values.
        ends = [end - 2**16 if end >= 2**15 else end for end in ends]
    return np.asarray((stored >= min(ends)) & (stored <= max(ends)))
