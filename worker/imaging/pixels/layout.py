"""The layout of a DICOM image's pixels, as its header declares it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from db.jobs.problems import CorruptImage, UnsupportedPixels
from worker.imaging.elements import integer, text

if TYPE_CHECKING:
    from pydicom import Dataset

_GREY = frozenset({"MONOCHROME1", "MONOCHROME2"})

#: Bits Allocated that arrays can hold. The old standards also had others, such as 12.
_ALLOCATED = frozenset({1, 8, 16, 32})


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The Image Pixel Module (PS3.3 C.7.6.3), with the usual values for what is missing."""

    rows: int
    columns: int
    #: Samples per Pixel: 1 or 3.
    samples: int
    #: Photometric Interpretation, in capitals and without padding.
    photometric: str
    #: Planar Configuration: 0 if the samples of a pixel lie side by side.
    planar: int
    #: Bits Allocated and Bits Stored.
    allocated: int
    bits: int
    high_bit: int
    #: Whether Pixel Representation says two's complement.
    signed: bool


def read_layout(dataset: Dataset) -> Layout:
    """Return how a header declares the pixels.

    What other software tolerates is tolerated: Samples per Pixel (1), Pixel Representation (0) and, with one
    sample, Photometric Interpretation (MONOCHROME2) may be missing.
    Raises CorruptImage, and UnsupportedPixels for pixels that no radiograph has.
    """
    samples = integer(dataset, "SamplesPerPixel", 1)
    photometric = text(dataset, "PhotometricInterpretation") or ("MONOCHROME2" if samples == 1 else "")
    if not photometric:
        raise CorruptImage("PhotometricInterpretation")
    if samples not in (1, 3) or (photometric in _GREY) != (samples == 1):
        raise UnsupportedPixels("samples")
    allocated = integer(dataset, "BitsAllocated")
    bits = integer(dataset, "BitsStored", allocated)
    if not 1 <= bits <= allocated <= 64:
        raise CorruptImage("BitsStored")
    if bits > 16 or allocated not in _ALLOCATED:
        raise UnsupportedPixels(f"{bits} bits stored in {allocated}")
    return Layout(
        rows=integer(dataset, "Rows"),
        columns=integer(dataset, "Columns"),
        samples=samples,
        photometric=photometric,
        planar=integer(dataset, "PlanarConfiguration", 0),
        allocated=allocated,
        bits=bits,
        high_bit=integer(dataset, "HighBit", bits - 1),
        signed=integer(dataset, "PixelRepresentation", 0) == 1,
    )
