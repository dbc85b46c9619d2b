"""The decoders of Pixel Data: one for each transfer syntax, with what it must be told."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from db.jobs.problems import CorruptImage, ImageProblem, NoDecoder
from worker.imaging.pixels.codestream import Codestream
from worker.imaging.pixels.frame import check_frame, end_frame, join_fragments
from worker.imaging.pixels.layout import Layout

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset
    from pydicom.pixels.decoders.base import Decoder

#: Plugins that refuse damaged frames, in the order in which they are asked. A damaged frame can make GDCM
#: end the process, or keep it busy for ever. So GDCM is left for JPEG lossless, which no other plugin reads.
_SAFE_PLUGINS = ("pylibjpeg", "pyjpegls", "pillow", "pydicom")
_PLUGIN_OF_JPEG_LOSSLESS = "gdcm"

#: Transfer syntaxes that are newer than pydicom's list.
_NEWER_SYNTAXES = {
    "1.2.840.10008.1.2.4.110": "JPEG XL Lossless",
    "1.2.840.10008.1.2.4.111": "JPEG XL JPEG Recompression",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
}

#: Some encoders write bytes between the last pixel of JPEG-LS and the end-of-image marker. CharLS refuses
#: them after it has decoded all pixels. At most this many are removed.
_STRAY_BYTES = 4


def decode_pixels(dataset: FileDataset, layout: Layout) -> tuple[NDArray[Any], Codestream | None]:
    """Return the samples of the one frame as they are encoded, and what the codestream declares of them.

    The samples are (rows, columns), or RGB (rows, columns, 3). They are unsigned: of two's complement, the
    bit patterns. Only a signed JPEG 2000 codestream has signed ones. Native and RLE data have no codestream.
    Raises CorruptImage, NoDecoder.
    """
    decoder = _decoder(dataset)
    try:
        return _decode(dataset, layout, decoder)
    except (ImageProblem, MemoryError):
        raise
    except BaseException as error:
        # Decoders raise all kinds of errors for damaged files. The RLE decoder is written in Rust: its panics
        # are not `Exception`s and would end the process.
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise CorruptImage from error
        raise


def _decoder(dataset: FileDataset) -> Decoder:
    """Return the decoder of the transfer syntax. Raises NoDecoder, with the name if it is a public syntax."""
    from pydicom.pixels.decoders.base import get_decoder

    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        decoder = get_decoder(syntax)
        if decoder.is_available:
            return decoder
    except NotImplementedError:
        pass
    # Private identifiers are not shown: they may say where an image is from.
    public = re.fullmatch(r"1\.2\.840\.10008\.1\.2[.0-9]{0,40}", syntax)
    raise NoDecoder(*([_NEWER_SYNTAXES.get(syntax, syntax.name)] if public else []))


def _decode(dataset: FileDataset, layout: Layout, decoder: Decoder) -> tuple[NDArray[Any], Codestream | None]:
    from pydicom.uid import RLELossless

    if not decoder.is_encapsulated:
        options = {"pixel_keyword": "PixelData", "pixel_vr": dataset["PixelData"].VR, "view_only": True}
        return _ask(decoder, "", dataset.PixelData, layout, layout.allocated, False, **options), None
    frame = join_fragments(dataset.PixelData)
    if dataset.file_meta.TransferSyntaxUID == RLELossless:
        return _ask_in_turn(decoder, [frame], layout, layout.allocated, False), None
    found = check_frame(frame, layout)
    values, *others = (_decode_frame(whole, found, layout, decoder) for whole in end_frame(frame, found))
    if any(not np.array_equal(values, other) for other in others):
        raise CorruptImage("PixelData")
    return values, found


def _decode_frame(frame: bytes, found: Codestream, layout: Layout, declared: Decoder) -> NDArray[Any]:
    if found.process == "JPEG" and found.precision == 12 and found.components == 1:
        return _decode_12_bit_jpeg(frame, layout)
    frames = [frame]
    if found.process == "JPEG-LS":
        end = frame.rindex(b"\xff\xd9")
        frames += [frame[: end - stray] + frame[end:] for stray in range(1, _STRAY_BYTES + 1)]
    return _ask_in_turn(_decoder_of(found, declared), frames, layout, found.precision, found.signed)


def _decoder_of(found: Codestream, declared: Decoder) -> Decoder:
    """Return the decoder of a codestream, which may be another one than that of the transfer syntax.

    Raises NoDecoder with the name of the process.
    """
    from pydicom import uid
    from pydicom.pixels.decoders.base import get_decoder

    syntaxes = {
        "JPEG": uid.JPEGBaseline8Bit,
        "JPEG progressive": uid.JPEGBaseline8Bit,
        "JPEG lossless": uid.JPEGLossless,
        "JPEG-LS": uid.JPEGLSLossless,
        "JPEG 2000": declared.UID if declared.UID in uid.JPEG2000TransferSyntaxes else uid.JPEG2000,
    }
    wide = found.process in ("JPEG", "JPEG progressive") and found.precision > 8
    if found.process not in syntaxes or wide:
        raise NoDecoder(f"{found.process}, {found.precision} bits")
    return get_decoder(syntaxes[found.process])


def _ask_in_turn(
    decoder: Decoder, frames: list[bytes], layout: Layout, precision: int, signed: bool
) -> NDArray[Any]:
    """Return what the first plugin that reads one of the frames makes of it.

    Raises what the first plugin raised for the first frame, if none does.
    """
    from pydicom.encaps import encapsulate

    plugins = [plugin for plugin in _SAFE_PLUGINS if plugin in decoder.available_plugins]
    failure: Exception | None = None
    for frame in frames:
        for plugin in plugins or [_PLUGIN_OF_JPEG_LOSSLESS]:
            try:
                return _ask(decoder, plugin, encapsulate([frame]), layout, precision, signed)
            except MemoryError:
                raise
            except Exception as error:
                failure = failure or error
    raise failure or NoDecoder


def _ask(
    decoder: Decoder, plugin: str, pixels: bytes, layout: Layout, precision: int, signed: bool, **more: Any
) -> NDArray[Any]:
    """Return what a plugin decodes. It is told the codestream's precision and sign, not the header's."""
    options: dict[str, Any] = {
        "rows": layout.rows,
        "columns": layout.columns,
        "number_of_frames": 1,
        "samples_per_pixel": layout.samples,
        "photometric_interpretation": layout.photometric,
        "planar_configuration": layout.planar,
        "bits_allocated": 1 if precision == 1 else (precision + 7) // 8 * 8,
        "bits_stored": precision,
        "pixel_representation": int(signed),
    }
    return decoder.as_array(pixels, decoding_plugin=plugin, **options, **more)[0]


def _decode_12_bit_jpeg(frame: bytes, layout: Layout) -> NDArray[Any]:
    """Decode 12-bit JPEG Extended (PS3.5 A.4.1) with GDCM: pydicom has no installed decoder for it.

    Raises CorruptImage, NoDecoder.
    """
    try:
        import gdcm  # type: ignore[import-untyped]
    except ImportError:
        raise NoDecoder("JPEG, 12 bits") from None
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(frame)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((layout.columns, layout.rows, 1))
    image.SetDataElement(element)
    grey = gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2)
    image.SetPhotometricInterpretation(grey)
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGExtendedProcess2_4))
    # GDCM must be told the true precision.
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, 12, 11, 0))
    # The binding returns bytes as text, and None for a frame that cannot be decoded.
    decoded = image.GetBuffer()
    if decoded is None:
        raise CorruptImage
    return np.frombuffer(decoded.encode("utf-8", "surrogateescape"), "=u2").reshape(
        layout.rows, layout.columns
    )
