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

from db.jobs.problems import CorruptImage
from worker.imaging.depth import bits_in_use
from worker.imaging.elements import numbers, text
from worker.imaging.pixels.stored import StoredValues
from worker.imaging.presentation.lut import first_lut

if TYPE_CHECKING:
    from pydicom import Dataset

#: The least and the greatest value that a step can give.
Range = tuple[float, float]
Values = NDArray[np.float64]


def display_values(stored: StoredValues, dataset: Dataset) -> NDArray[np.float32]:
    """Return what a screen shows as float32, shaped as the stored values, in [0, 1], 0 is black.

    The scale is the known output range of the last step, never the image's own minimum and maximum:
    an underexposed image stays dark. Overlays are not shown. Raises CorruptImage.
    """
    values, stored_range = _values(stored)
    padding = _padding(values, stored_range, dataset)
    modality = first_lut(dataset, "ModalityLUTSequence")
    voi = first_lut(dataset, "VOILUTSequence")
    window = None if voi else _first_window(dataset)
    if modality is None and voi is None and window is None and not stored.signed:
        stored_range = 0.0, _white(stored, padding)
    if modality is None:
        shown, shown_range = _rescale(values, stored_range, dataset)
    else:
        shown, shown_range = modality.look_up(values, stored_range[0]), modality.range
    if voi is not None:
        shown, shown_range = voi.look_up(shown, shown_range[0]), voi.range
    if window is not None:
        shown = _through_window(shown, *window)
    else:
        low, high = shown_range
        shown = np.clip((shown - low) / (high - low), 0, 1)
    # PS3.3 C.7.6.3.1.2. Presentation LUT Shape INVERSE says the same of the same image a second time: DX
    # requires it together with MONOCHROME1 (C.8.11.3.1.2), so it is left alone.
    if text(dataset, "PhotometricInterpretation") == "MONOCHROME1":
        shown = 1 - shown
    shown[padding] = 0
    return shown.astype(np.float32).take(stored.patterns)


def _values(stored: StoredValues) -> tuple[Values, Range]:
    """Return the value of each pattern of the stored bits, and their range (PS3.3 C.7.6.3.1)."""
    values = np.arange(2**stored.bits, dtype=np.float64)
    if stored.signed:
        # Two's complement: the upper half of the patterns are the negative values.
        values[2 ** (stored.bits - 1) :] -= 2**stored.bits
    return values, (float(values.min()), float(values.max()))


def _white(stored: StoredValues, padding: NDArray[np.bool_]) -> float:
    """Return the greatest value of the range of unsigned values that have no other scale."""
    greatest = 0
    if stored.bits == 16:
        counted = ~padding[stored.patterns] if padding.any() else np.True_
        greatest = int(stored.patterns.max(initial=0, where=counted))
    return 2.0 ** bits_in_use(greatest, stored.bits) - 1


def _rescale(stored: Values, stored_range: Range, dataset: Dataset) -> tuple[Values, Range]:
    """Apply rescale slope and intercept (PS3.3 C.11.1)."""
    slope = next(iter(numbers(dataset, "RescaleSlope")), 1.0)
    intercept = next(iter(numbers(dataset, "RescaleIntercept")), 0.0)
    if slope == 0:
        raise CorruptImage("RescaleSlope")
    low, high = sorted(end * slope + intercept for end in stored_range)
    return stored * slope + intercept, (low, high)


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
    elif len(set(ends)) == 1 and ends[0] > stored_range[1]:
        # Some devices write a value of all bits allocated, of which the pixels have only the bits stored.
        ends = [int(ends[0]) % (int(stored_range[1]) + 1)]
    return np.asarray((stored >= min(ends)) & (stored <= max(ends)))
