"""JPEG 2000, JPEG-LS and lossless JPEG files, as archives ship them, and formats that are not read."""

from __future__ import annotations

import struct
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.encaps import generate_frames

from db.jobs.problems import (
    CorruptImage,
    ImageProblem,
    MultiFrame,
    NoDecoder,
    NotAnImage,
    TooManyPixels,
    UnsupportedPixels,
)  # fmt: skip
from tests.pictures import decode
from worker.imaging.limits import Limits
from worker.imaging.picture import squeeze
from worker.imaging.pixels.decoders import decode_pixels
from worker.imaging.pixels.layout import read_layout
from worker.imaging.rasters.grey import squeeze_values

Bytes = Callable[..., bytes]
Make = Callable[..., Dataset]
JP2_SIGNATURE = b"\0\0\0\x0cjP  \r\n\x87\n"


@pytest.fixture(scope="module")
def deep(scene: np.ndarray) -> np.ndarray:
    """Return the scene as 16 bits that reach from black to white."""
    return (scene.astype(np.uint32) * 65535 // int(scene.max())).astype(np.uint16)


@pytest.fixture(scope="module")
def colour(deep: np.ndarray) -> np.ndarray:
    return np.stack([deep, deep[::-1], 65535 - deep], axis=2)


def of_bits(deep: np.ndarray, bits: int) -> np.ndarray:
    return (deep >> (16 - bits)).astype(np.uint8 if bits <= 8 else np.uint16)


def jpeg2000(pixels: np.ndarray, bits: int) -> bytes:
    from openjpeg.utils import encode_array

    return bytes(
        encode_array(pixels, bits_stored=bits, photometric_interpretation=1 if pixels.ndim == 3 else 2)
    )


def jpeg_ls(pixels: np.ndarray) -> bytes:
    from jpeg_ls import encode

    return bytes(encode(pixels))


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def jp2(codestream: bytes, *, space: int = 17, before: bytes = b"", palette: bool = False) -> bytes:
    """Return a JP2 file around a codestream (ISO/IEC 15444-1 annex I)."""
    size = codestream[8:16]  # Xsiz and Ysiz
    width, height = struct.unpack(">II", size)
    components, depth = struct.unpack_from(">HB", codestream, 40)
    header = box(b"ihdr", struct.pack(">IIHBBBB", height, width, components, depth, 7, 0, 0))
    header += box(b"colr", struct.pack(">BBBI", 1, 0, 0, space))
    if palette:
        header += box(b"pclr", struct.pack(">HB", 1, 1) + b"\x07\xff")
    brand = box(b"ftyp", b"jp2 \0\0\0\0jp2 ")
    return JP2_SIGNATURE + brand + before + box(b"jp2h", header) + box(b"jp2c", codestream)


@pytest.mark.parametrize("bits", [2, 8, 10, 12, 16])
def test_jpeg_2000_of_every_depth_is_read(deep: np.ndarray, bits: int) -> None:
    pixels = of_bits(deep, bits)
    expected = squeeze_values(pixels, bits)
    codestream = jpeg2000(pixels, bits)
    # Archives write long descriptions before the picture.
    long_text = box(b"xml ", b"<a>" + b" " * 10_000 + b"</a>")
    for content in (codestream, jp2(codestream), jp2(codestream, before=long_text)):
        assert np.array_equal(decode(content), expected)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_signed_jpeg_2000_has_its_least_value_as_black(deep: np.ndarray, bits: int) -> None:
    pixels = of_bits(deep, bits)
    signed = (pixels.astype(np.int32) - 2 ** (bits - 1)).astype(np.int8 if bits == 8 else np.int16)
    assert np.array_equal(decode(jpeg2000(signed, bits)), squeeze_values(pixels, bits))


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_white_stays_white_in_deep_colour(colour: np.ndarray, bits: int) -> None:
    pixels = of_bits(colour, bits)
    expected = squeeze(Image.fromarray((colour >> 8).astype(np.uint8)))
    assert np.array_equal(decode(jpeg2000(pixels, bits)), expected)
    assert np.array_equal(decode(jp2(jpeg2000(pixels, bits), space=16)), expected)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_jpeg_ls_of_every_depth_is_read(deep: np.ndarray, bits: int) -> None:
    pixels = of_bits(deep, bits)
    # The encoder writes 8 or 16 bits, of which 12 are used.
    assert np.array_equal(decode(jpeg_ls(pixels)), squeeze_values(pixels, bits))


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("syntax", ["JPEGLosslessProcess14", "JPEGLosslessProcess14_1"])
def test_lossless_jpeg_of_every_depth_is_read(
    deep: np.ndarray, make_dicom: Make, dicom_bytes: Bytes, by_gdcm: Bytes, bits: int, syntax: str
) -> None:
    pixels = of_bits(deep, bits)
    encoded = dcmread(BytesIO(by_gdcm(dicom_bytes(make_dicom(pixels, bits=bits)), syntax)))
    frame = next(generate_frames(encoded.PixelData, number_of_frames=1))
    assert np.array_equal(decode(frame), squeeze_values(pixels, bits))


@pytest.mark.parametrize("name", ["JPEG-lossy.dcm", "JPGExtended.dcm"])
def test_twelve_bit_jpeg_is_read(name: str) -> None:
    dataset = dcmread(str(get_testdata_file(name, download=False)))
    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    expected = squeeze_values(decode_pixels(dataset, read_layout(dataset))[0], 12)
    assert expected.max() > 0
    assert np.array_equal(decode(frame), expected)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.9])
@pytest.mark.parametrize("kind", ["grey", "colour", "file", "JPEG-LS"])
def test_a_truncated_archive_file_is_corrupt(
    deep: np.ndarray, colour: np.ndarray, kind: str, share: float
) -> None:
    content = {
        "grey": jpeg2000(deep, 16),
        "colour": jpeg2000(of_bits(colour, 8), 8),
        "file": jp2(jpeg2000(deep, 16)),
        "JPEG-LS": jpeg_ls(deep),
    }[kind]
    with pytest.raises(CorruptImage):
        decode(content[: int(len(content) * share)])


def test_the_limits_are_checked_before_an_archive_file_is_decoded(deep: np.ndarray) -> None:
    for content in (jpeg2000(deep, 16), jp2(jpeg2000(deep, 16)), jpeg_ls(deep)):
        with pytest.raises(TooManyPixels):
            decode(content, Limits(max_pixels=deep.size - 1))


def test_jpeg_2000_that_is_whole_and_not_read_is_refused_by_its_name(
    deep: np.ndarray, colour: np.ndarray
) -> None:
    eight = of_bits(colour, 8)
    for content, name in (
        (jp2(jpeg2000(eight, 8), space=12), "CMYK"),
        (jp2(jpeg2000(eight, 8), space=14), "CIELab"),
        (jp2(jpeg2000(deep, 16), palette=True), "1 components of 16 bits"),
        (jp2(jpeg2000(of_bits(colour, 16), 16), space=18), "3 components of 16 bits"),
    ):
        with pytest.raises(UnsupportedPixels) as caught:
            decode(content)
        assert name in caught.value.detail
    with pytest.raises(MultiFrame):
        decode(jp2(jpeg2000(deep, 16)) + box(b"jp2c", jpeg2000(deep, 16)))
    with pytest.raises(CorruptImage):
        decode(jp2(jpeg2000(deep, 16))[:100])


def jpeg_of(marker: int, precision: int, components: int = 1) -> bytes:
    """Return a JPEG file that has headers alone."""
    frame = struct.pack(">BHHB", precision, 300, 256, components) + bytes(3 * components)
    scan = b"\xff\xda" + struct.pack(">H", 8) + bytes(6)
    return b"\xff\xd8\xff" + bytes([marker]) + struct.pack(">H", 2 + len(frame)) + frame + scan + b"\xff\xd9"


@pytest.mark.parametrize(
    ("marker", "precision", "name"),
    [
        (0xC2, 12, "JPEG progressive, 12 bits"),
        (0xC3, 2, "JPEG lossless, 2 bits"),
        (0xC5, 8, "JPEG hierarchical, 8 bits"),
        (0xC9, 12, "JPEG arithmetic, 12 bits"),
        (0xCB, 8, "JPEG arithmetic, 8 bits"),
    ],
)
def test_a_jpeg_process_without_a_decoder_is_refused_by_its_name(
    marker: int, precision: int, name: str
) -> None:
    with pytest.raises(NoDecoder) as caught:
        decode(jpeg_of(marker, precision))
    assert caught.value.detail == name


def test_jpeg_of_strange_components_is_unsupported() -> None:
    for marker, precision in ((0xC3, 12), (0xF7, 8)):
        with pytest.raises(UnsupportedPixels) as caught:
            decode(jpeg_of(marker, precision, 4))
        assert "4 components" in caught.value.detail


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"GIF89a", "GIF"),
        (b"RIFF\x10\x20\0\0WEBPVP8 ", "WebP"),
        (b"\0\0\0\x18ftypheic", "HEIC"),
        (b"\0\0\0\x18ftypmif1", "HEIC"),
        (b"\0\0\0\x1cftypavif", "AVIF"),
        (b"\xff\x0a\x7f", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"II\xbc\x01", "JPEG XR"),
        (b"8BPS\0\x01", "Photoshop"),
        (b"v/1\x01", "OpenEXR"),
        (b"P5\n256 300\n255\n", "PNM"),
        (b"SIMPLE  =                    T", "FITS"),
    ],
)
def test_an_image_of_another_format_is_unsupported_and_named(start: bytes, name: str) -> None:
    with pytest.raises(UnsupportedPixels) as caught:
        decode(start + bytes(300))
    assert caught.value.detail == name


def test_what_is_no_image_of_any_format_is_not_an_image() -> None:
    for start in (b"%PDF-1.7", b"PK\x03\x04", b"\0\0\0\x18ftypisom", b"RIFF\x10\x20\0\0WAVE", b"plain text"):
        with pytest.raises(NotAnImage):
            decode(start + bytes(300))


def test_a_problem_of_a_raster_tells_nothing_of_its_contents(deep: np.ndarray) -> None:
    content = jp2(jpeg2000(deep, 16), before=box(b"xml ", b"Jane Doe"))[:-1000]
    with pytest.raises(ImageProblem) as caught:
        decode(content)
    assert "Doe" not in str(caught.value)
