"""DICOM files: from stored values to what a radiologist's screen would show.

The order of the steps is that of PS3.4 N.2: stored values, modality LUT, VOI LUT or window, and last,
once, the polarity.
"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from db.problems import ColourImage, CorruptImage, ImageProblem, NoDecoder, NotAnImage
from worker.imaging.gate import check_screenable
from worker.imaging.limits import Limits
from worker.imaging.picture import squeeze_grey

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.dataset import FileDataset

_PREAMBLE, _MAGIC = 128, b"DICM"

#: A greyscale image that went through lossy colour compression comes back with channels this far
#: apart at most (of 255, mean over the image): chroma is quantised coarsely and then upsampled.
_GREY_TOLERANCE = 2.0

Range = tuple[float, float]


def is_dicom(content: bytes) -> bool:
    """Tell whether bytes are a DICOM file: with the preamble of PS3.10 section 7.1, or an old one without.

    Without it, a file begins with group 0002 or 0008 in either byte order.
    """
    if content[_PREAMBLE : _PREAMBLE + 4] == _MAGIC:
        return True
    return content[:4] in (b"\x02\0\0\0", b"\x02\0\x01\0", b"\x08\0\0\0", b"\x08\0\x01\0", b"\x08\0\x05\0",
                           b"\x08\0\x08\0", b"\x08\0\x16\0", b"\0\x08\0\x05", b"\0\x08\0\x08")  # fmt: skip


def decode_dicom(content: bytes, limits: Limits) -> NDArray[np.uint8]:
    """Return the picture in a DICOM file as uint8 (224, 224, 3), 0 is black.

    Raises ImageProblem: what `check_screenable` raises, and NotAnImage, CorruptImage, NoDecoder,
    TooManyPixels, TooFewPixels, UnsupportedPixels.
    """
    dataset = _read(content)
    try:
        check_screenable(dataset)
        limits.check(int(dataset.Columns), int(dataset.Rows))
        _check_decoder(dataset)
        return squeeze_grey(display_values(dataset))
    except ImageProblem:
        raise
    except Exception as error:
        # pydicom and its decoders raise whatever a damaged file leads them into.
        raise CorruptImage from error


def _read(content: bytes) -> FileDataset:
    from pydicom import dcmread

    try:
        dataset = dcmread(BytesIO(content), force=True)
    except Exception as error:
        raise CorruptImage from error
    if len(dataset) == 0:
        raise NotAnImage
    if "TransferSyntaxUID" not in dataset.file_meta:
        _tell_transfer_syntax(dataset)
    return dataset


def _tell_transfer_syntax(dataset: FileDataset) -> None:
    """Name the encoding that the reader found by trying, for files from before there was a header for it."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    implicit, little = dataset.original_encoding
    explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit


def _check_decoder(dataset: FileDataset) -> None:
    from pydicom.pixels import get_decoder

    try:
        decoder = get_decoder(dataset.file_meta.TransferSyntaxUID)
    except NotImplementedError:
        raise NoDecoder from None
    if not decoder.is_available:
        raise NoDecoder


def display_values(dataset: Dataset) -> NDArray[np.float32]:
    """Return what a screen shows as float32 (rows, columns) in [0, 1], 0 is black.

    The scale is the known output range of the last step, never the image's own minimum and maximum:
    an underexposed image stays dark. Raises ColourImage.
    """
    stored = dataset.pixel_array
    if stored.ndim == 3:
        return _grey_of_colour(stored, dataset)
    values, value_range = _apply_modality(stored, dataset)
    values, value_range = _apply_voi(values, value_range, dataset)
    low, high = value_range
    shown = np.clip((values.astype(np.float32) - low) / (high - low), 0, 1)
    # PS3.3 C.7.6.3.1.2. Presentation LUT Shape INVERSE says the same thing of the same image a second
    # time (C.8.11.3.1.2), so it is left alone.
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        shown = 1 - shown
    shown[_padding(stored, dataset)] = 0
    return shown.astype(np.float32)


def _grey_of_colour(stored: NDArray[np.generic], dataset: Dataset) -> NDArray[np.float32]:
    """Return the grey of an RGB image whose channels are equal, or raise ColourImage."""
    channels = stored.astype(np.float32) / (2.0 ** int(dataset.BitsStored) - 1)
    spread = channels.max(axis=2) - channels.min(axis=2)
    if float(spread.mean()) * 255 > _GREY_TOLERANCE:
        raise ColourImage
    grey: NDArray[np.float32] = channels.mean(axis=2, dtype=np.float32)
    return grey


def _stored_range(dataset: Dataset) -> Range:
    """Return the least and greatest value that a pixel can have (PS3.3 C.7.6.3.1)."""
    values = 2.0 ** int(dataset.BitsStored)
    return (-values / 2, values / 2 - 1) if dataset.PixelRepresentation else (0.0, values - 1)


def _apply_modality(stored: NDArray[np.generic], dataset: Dataset) -> tuple[NDArray[np.generic], Range]:
    """Apply the Modality LUT or rescale slope and intercept (PS3.3 C.11.1)."""
    from pydicom.pixels import apply_modality_lut

    values = apply_modality_lut(stored, dataset)
    if dataset.get("ModalityLUTSequence"):
        return values, _lut_range(dataset.ModalityLUTSequence[0])
    slope = float(dataset.get("RescaleSlope") or 1)
    intercept = float(dataset.get("RescaleIntercept") or 0)
    low, high = sorted(end * slope + intercept for end in _stored_range(dataset))
    return values, (low, high)


def _apply_voi(
    values: NDArray[np.generic], value_range: Range, dataset: Dataset
) -> tuple[NDArray[np.generic], Range]:
    """Apply the first VOI LUT or window, if there is one that can be used (PS3.3 C.11.2)."""
    from pydicom.pixels import apply_voi

    sequence = dataset.get("VOILUTSequence")
    if sequence and sequence[0].get("LUTData") is not None:
        # Modality values may be fractions; a table is looked up by whole numbers.
        return apply_voi(np.rint(values).astype(np.int64), dataset), _lut_range(sequence[0])
    window = _first_window(dataset)
    if window is None:
        return values, value_range
    return _window(values.astype(np.float64), *window), (0.0, 1.0)


def _first_window(dataset: Dataset) -> tuple[float, float, str] | None:
    """Return centre, width and function of the first window; None where there is none or it is nonsense."""
    centre, width = (_first(dataset.get(keyword)) for keyword in ("WindowCenter", "WindowWidth"))
    function = str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper()
    if centre is None or width is None or not np.isfinite([centre, width]).all():
        return None
    # C.11.2.1.2: at least 1 for LINEAR, above 0 for the others.
    if width < 1 if function == "LINEAR" else width <= 0:
        return None
    return centre, width, function


def _first(value: object) -> float | None:
    """Return the first of an element's values as a number."""
    if value is None or value == "":
        return None
    if isinstance(value, str | int | float):
        return float(value)
    values = list(value)  # type: ignore[call-overload]
    return float(values[0]) if values else None


def _window(values: NDArray[np.float64], centre: float, width: float, function: str) -> NDArray[np.float64]:
    """Return values through a window, from 0 to 1 (PS3.3 C.11.2.1.2.1, C.11.2.1.3.1 and C.11.2.1.3.2)."""
    if function == "SIGMOID":
        exponent = np.clip(-4 * (values - centre) / width, -700, 700)
        return np.asarray(1 / (1 + np.exp(exponent)))
    if function == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0, 1)
    if width == 1:
        return np.where(values <= centre - 0.5, 0.0, 1.0)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)


def _lut_range(item: Dataset) -> Range:
    """Return the range of a LUT's entries, from the third value of its descriptor (PS3.3 C.11.1.1.1)."""
    return 0.0, 2.0 ** int(item.LUTDescriptor[2]) - 1


def _padding(stored: NDArray[np.generic], dataset: Dataset) -> NDArray[np.bool_]:
    """Tell the pixels that are no image, outside a circular or rotated field (PS3.3 C.7.5.1.1.2)."""
    first = dataset.get("PixelPaddingValue")
    if first is None:
        return np.zeros(stored.shape, dtype=bool)
    last = dataset.get("PixelPaddingRangeLimit", first)
    low, high = sorted((int(first), int(last)))
    return np.asarray((stored >= low) & (stored <= high))
