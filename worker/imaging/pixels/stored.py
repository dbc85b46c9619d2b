"""The stored values of a DICOM image, decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from db.jobs.problems import CorruptImage, UnsupportedPixels
from worker.imaging.elements import numbers
from worker.imaging.pixels.codestream import Codestream
from worker.imaging.pixels.decoders import decode_pixels
from worker.imaging.pixels.layout import Layout

if TYPE_CHECKING:
    from pydicom.dataset import Dataset, FileDataset

#: Lossy compression moves values beyond the range of Bits Stored by less than this share of it. Values that
#: are farther beyond belong to a deeper image than the header declares.
_OVERSHOOT = 0.25

#: Values that wrap around make neighbours differ by almost the whole range. Of two readings of a picture, the
#: one with so many times fewer neighbours that differ by half of it is the right one.
_SMOOTHER = 4

#: Overlay groups, and the elements Overlay Bit Position and Overlay Data in them (PS3.3 C.9.2).
_OVERLAYS, _BIT_POSITION, _OVERLAY_DATA = range(0x6000, 0x6020, 2), 0x0102, 0x3000


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredValues:
    """Stored values (PS3.3 C.7.6.3.1) with the bits that they really have."""

    #: (rows, columns), or RGB (rows, columns, 3): the bit pattern of each value, below 2 ** bits.
    patterns: NDArray[Any]
    #: Bits of a value, 16 at most.
    bits: int
    #: Whether patterns are two's complement.
    signed: bool


def stored_values(dataset: FileDataset, layout: Layout) -> StoredValues:
    """Return the stored values of a parsed file. Raises CorruptImage, NoDecoder, UnsupportedPixels.

    Bits above Bits Stored belong to no value in native data (PS3.5 8.1.1). In a compressed image they do: it
    has the bits of its codestream, or of Bits Stored if all values fit into them. No value wraps around.
    """
    raw, found = decode_pixels(dataset, layout)
    size = (layout.rows, layout.columns)
    if raw.shape != (size if layout.samples == 1 else (*size, layout.samples)):
        # A decoder may find more frames than the header declares.
        raise CorruptImage("size")
    if found is None and layout.high_bit != layout.bits - 1:
        raise UnsupportedPixels("high bit")
    native = not dataset.file_meta.TransferSyntaxUID.is_encapsulated
    precision = layout.bits if native else layout.allocated if found is None else found.precision
    one_sign = found is None or found.process != "JPEG 2000" or found.signed == layout.signed
    if (precision == layout.bits and one_sign) or _holds_overlay(dataset):
        return StoredValues(patterns=_low_bits(raw, layout.bits), bits=layout.bits, signed=layout.signed)
    values = _settle_sign(_cut_padding(raw, dataset, layout.bits), precision, found, layout)
    return _settle_bits(values, precision, layout.bits)


def _holds_overlay(dataset: Dataset) -> bool:
    """Tell whether unused bits of the pixels hold an overlay (PS3.5 8.1.2, retired)."""
    return any(
        (group, _OVERLAY_DATA) not in dataset and _is_above_zero(dataset.get_item((group, _BIT_POSITION)))
        for group in _OVERLAYS
    )


def _is_above_zero(element: Any) -> bool:
    value = getattr(element, "value", None)
    return bool(value.strip(b"\0") if isinstance(value, bytes) else value)


def _cut_padding(raw: NDArray[Any], dataset: Dataset, bits: int) -> NDArray[Any]:
    """Return samples with the low bits of Pixel Padding Value, if it has more bits than those stored."""
    padding = int(next(iter(numbers(dataset, "PixelPaddingValue")), 0))
    return raw if padding < 2**bits else np.where(raw == padding, padding % 2**bits, raw).astype(raw.dtype)


def _settle_sign(raw: NDArray[Any], precision: int, found: Codestream | None, layout: Layout) -> NDArray[Any]:
    """Return the values of what was decoded, as signed or unsigned integers.

    JPEG 2000 declares itself whether its samples are signed. If it contradicts the header, one of them is
    wrong, or an encoder has taken bit patterns for values. The values tell which.
    Raises CorruptImage if they do not.
    """
    if raw.dtype.kind == "i":
        if layout.signed:
            return raw
        if raw.min() < 0:
            return _smoother(raw, _low_bits(raw, precision), precision)
        if precision <= layout.bits:
            raise CorruptImage("PixelRepresentation")
        return _low_bits(raw, precision)
    if not layout.signed:
        return raw
    values = _twos_complement(raw, precision)
    if found is not None and found.process == "JPEG 2000" and values.min() < 0:
        return _smoother(values, raw, precision)
    return values


def _settle_bits(values: NDArray[Any], precision: int, bits: int) -> StoredValues:
    """Return values with the bits that they have: those of the header if they fit, or of the codestream."""
    signed = values.dtype.kind == "i"
    if precision > bits:
        least = -(2 ** (bits - 1)) if signed else 0
        most = least + 2**bits - 1
        slack = _OVERSHOOT * 2**bits
        low, high = int(values.min()), int(values.max())
        if least - slack <= low and high <= most + slack:
            if low < least or high > most:
                values = values.clip(least, most)
        elif signed and low >= 0 and high < 2**bits:
            # Perhaps an encoder has cut the upper bits of negative values off.
            values = _smoother(_twos_complement(values, bits), values, bits)
            bits = bits if values.min() < 0 else precision
        else:
            bits = precision
    else:
        bits = precision
    if bits > 16:
        raise UnsupportedPixels(f"{bits} bits")
    return StoredValues(patterns=_low_bits(values, bits), bits=bits, signed=signed)


def _low_bits(values: NDArray[Any], bits: int) -> NDArray[Any]:
    """Return the bit patterns of values, as unsigned integers."""
    patterns = values.view(f"{values.dtype.byteorder}u{values.itemsize}")
    return patterns if values.itemsize * 8 == bits else patterns & patterns.dtype.type(2**bits - 1)


def _twos_complement(patterns: NDArray[Any], bits: int) -> NDArray[Any]:
    """Return the values of bit patterns in two's complement."""
    values = patterns.astype(np.int64)
    return np.where(values >= 2 ** (bits - 1), values - 2**bits, values)


def _smoother(first: NDArray[Any], second: NDArray[Any], bits: int) -> NDArray[Any]:
    """Return that reading of a picture which does not wrap around. Raises CorruptImage if it is not clear."""
    jumps = [
        np.count_nonzero(np.abs(np.diff(one.astype(np.int64), axis=1)) > 2 ** (bits - 1))
        for one in (first, second)
    ]
    if max(jumps) <= _SMOOTHER * min(jumps):
        raise CorruptImage("PixelRepresentation")
    return first if jumps[0] < jumps[1] else second
