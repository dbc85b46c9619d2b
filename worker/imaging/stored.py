"""The stored values of a DICOM image, decoded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from db.jobs.problems import CorruptImage, ImageProblem, NoDecoder
from worker.imaging.codestream import read_codestream
from worker.imaging.elements import integer

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset
    from pydicom.pixels.decoders.base import Decoder

#: Decoders that refuse damaged frames, in the order of preference.
_SAFE_PLUGINS = ("pylibjpeg", "pyjpegls", "pillow", "pydicom")


def stored_values(dataset: FileDataset) -> NDArray[np.generic]:
    """Return stored values (rows, columns), or RGB (rows, columns, 3). Raises CorruptImage, NoDecoder."""
    values = _decode(dataset, _decoder(dataset))
    size = (integer(dataset, "Rows"), integer(dataset, "Columns"))
    samples = integer(dataset, "SamplesPerPixel", 1)
    if values.shape != (size if samples == 1 else (*size, samples)):
        # A decoder may find more frames than the header declares.
        raise CorruptImage("size")
    return values


def _decode(dataset: FileDataset, decoder: Decoder) -> NDArray[np.generic]:
    try:
        if decoder.is_encapsulated:
            frame = _first_frame(dataset)
            if _is_12_bit_jpeg(dataset, frame):
                return _decode_12_bit_jpeg(dataset, frame)
        return decoder.as_array(dataset, decoding_plugin=_plugin(decoder))[0]
    except (ImageProblem, MemoryError):
        raise
    except BaseException as error:
        # Decoders raise all kinds of errors for damaged files. The RLE decoder is written in Rust: its panics
        # are not `Exception`s and would end the process.
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise CorruptImage from error
        raise


def _decoder(dataset: FileDataset) -> Decoder:
    from pydicom.pixels.decoders.base import get_decoder

    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise NoDecoder from None
    if not decoder.is_available:
        raise NoDecoder(syntax.name)
    return decoder


def _plugin(decoder: Decoder) -> str:
    """Return the name of a safe plugin that is available; empty if there is none: then pydicom chooses.

    By itself, pydicom tries GDCM first. A damaged frame can make GDCM end the whole process (an abort or a
    segmentation fault). So GDCM is left for JPEG Lossless, which no other plugin reads.
    """
    return next((plugin for plugin in _SAFE_PLUGINS if plugin in decoder.available_plugins), "")


def _first_frame(dataset: FileDataset) -> bytes:
    """Return the compressed frame. Raises CorruptImage if it contradicts the header.

    A decoder trusts the frame, not the header: a frame of 60,000 x 60,000 pixels under a header of 100 x 100
    would take all memory.
    """
    from pydicom.encaps import generate_frames
    from pydicom.uid import RLELossless

    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    found = read_codestream(frame)
    if found is None and dataset.file_meta.TransferSyntaxUID != RLELossless:
        raise CorruptImage
    if found is not None:
        if found.precision > integer(dataset, "BitsAllocated"):
            raise CorruptImage("precision")
        size = (integer(dataset, "Columns"), integer(dataset, "Rows"), integer(dataset, "SamplesPerPixel", 1))
        if (found.width, found.height, found.components) != size:
            raise CorruptImage("size")
    return frame


def _is_12_bit_jpeg(dataset: FileDataset, frame: bytes) -> bool:
    """Tell whether a frame is 12-bit JPEG Extended (PS3.5 A.4.1): pydicom has no installed decoder for it."""
    from pydicom.uid import JPEGExtended12Bit

    found = read_codestream(frame)
    return (
        dataset.file_meta.TransferSyntaxUID == JPEGExtended12Bit
        and found is not None
        and found.precision == 12
        and found.components == 1
    )


def _decode_12_bit_jpeg(dataset: FileDataset, frame: bytes) -> NDArray[np.generic]:
    """Decode with GDCM, which must be told the true precision. Raises CorruptImage, NoDecoder."""
    try:
        import gdcm  # type: ignore[import-untyped]
    except ImportError:
        raise NoDecoder from None
    rows, columns = integer(dataset, "Rows"), integer(dataset, "Columns")
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(frame)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((columns, rows, 1))
    image.SetDataElement(element)
    grey = gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2)
    image.SetPhotometricInterpretation(grey)
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGExtendedProcess2_4))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, 12, 11, 0))
    # The binding returns bytes as text, and None for a frame that cannot be decoded.
    decoded = image.GetBuffer()
    if decoded is None:
        raise CorruptImage
    return np.frombuffer(decoded.encode("utf-8", "surrogateescape"), "=u2").reshape(rows, columns)
