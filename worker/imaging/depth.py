"""The bits that 16-bit greyscale uses."""

from __future__ import annotations

#: Depths of detectors and film scanners. 8 bits are not among them: 16-bit values under 256 are nearly black.
_DEPTHS = (10, 12, 14)


def bits_in_use(greatest: int, bits: int) -> int:
    """Return the bits whose range is the scale of unsigned greyscale values with no other scale.

    `greatest` is the greatest value of a picture, without padding. If values have 16 bits and the greatest
    one fits into 10, 12 or 14 bits, the least of these is the depth of the detector, and its range is the
    scale: software that stores 12 bits in 16 does not change the values. Less than 16 `bits` are returned as
    they are, because the file itself says so.
    """
    if bits != 16:
        return bits
    return next((depth for depth in _DEPTHS if greatest < 2**depth), bits)
