"""Faults of a file that other software tolerates, because all of the picture is there."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    UID,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from db.jobs.problems import CorruptImage, MultiFrame, NoDecoder, UnsupportedPixels
from tests.pictures import decode

Make = Callable[..., Dataset]
Bytes = Callable[..., bytes]

ENCAPSULATED = (JPEG2000Lossless, JPEGLSLossless, RLELossless)
END = b"\xff\xd9"


def item(content: bytes) -> bytes:
    return b"\xfe\xff\x00\xe0" + struct.pack("<L", len(content)) + content


@pytest.fixture
def compressed(scene: np.ndarray, make_dicom: Make) -> Callable[..., tuple[Dataset, bytes]]:
    def compress(syntax: UID, **how: Any) -> tuple[Dataset, bytes]:
        dataset = make_dicom(scene)
        dataset.compress(syntax, **how)
        return dataset, next(generate_frames(dataset.PixelData, number_of_frames=1))

    return compress


@pytest.fixture
def with_frame(dicom_bytes: Bytes) -> Callable[[Dataset, bytes], bytes]:
    def change(dataset: Dataset, frame: bytes) -> bytes:
        dataset.PixelData = encapsulate([frame + b"\0" * (len(frame) % 2)])
        return dicom_bytes(dataset)

    return change


@pytest.mark.parametrize("keyword", ["SamplesPerPixel", "PixelRepresentation", "PhotometricInterpretation"])
@pytest.mark.parametrize("syntax", [None, *ENCAPSULATED], ids=lambda one: one.keyword if one else "native")
def test_elements_with_one_usual_value_may_be_missing(
    scene: np.ndarray, make_dicom: Make, dicom_bytes: Bytes, keyword: str, syntax: UID | None
) -> None:
    dataset = make_dicom(scene)
    if syntax is not None:
        dataset.compress(syntax)
    reference = decode(dicom_bytes(dataset))
    delattr(dataset, keyword)
    assert np.array_equal(decode(dicom_bytes(dataset)), reference)
    setattr(dataset, keyword, None)
    assert np.array_equal(decode(dicom_bytes(dataset)), reference)


@pytest.mark.parametrize("written", [b"monochrome1 ", b" MONOCHROME1", b"Monochrome1\0"])
def test_photometric_interpretation_may_be_in_small_letters_or_padded(
    scene: np.ndarray, make_dicom: Make, dicom_bytes: Bytes, written: bytes
) -> None:
    content = dicom_bytes(make_dicom(4095 - scene, PhotometricInterpretation="MONOCHROME1"))
    assert content.count(b"MONOCHROME1 ") == 1
    assert np.array_equal(decode(content.replace(b"MONOCHROME1 ", written)), decode(content))


@pytest.mark.parametrize("padding", [b" ", b"\0"])
@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("NumberOfFrames", "0001"),
        ("RescaleSlope", "9.75"),
        ("RescaleIntercept", "9.75"),
        ("WindowCenter", "9.75"),
        ("WindowWidth", "9.75"),
    ],
)
def test_blank_numbers_are_missing_numbers(
    scene: np.ndarray, make_dicom: Make, dicom_bytes: Bytes, keyword: str, value: str, padding: bytes
) -> None:
    plain = make_dicom(scene)
    blank = make_dicom(scene, **{keyword: value})
    written = b"S\x04\x00" + value.encode()
    assert dicom_bytes(blank).count(written) == 1
    content = dicom_bytes(blank).replace(written, written[:3] + padding * 4)
    assert np.array_equal(decode(content), decode(dicom_bytes(plain)))


@pytest.mark.parametrize("syntax", ENCAPSULATED, ids=lambda syntax: syntax.keyword)
def test_an_offset_table_may_list_fragments(
    compressed: Callable[..., tuple[Dataset, bytes]], dicom_bytes: Bytes, syntax: UID
) -> None:
    dataset, frame = compressed(syntax)
    reference = decode(dicom_bytes(dataset))
    third = len(frame) // 6 * 2
    parts = [frame[:third], frame[third : 2 * third], frame[2 * third :]]
    starts = [0, third + 8, 2 * third + 16]
    for table in (struct.pack("<3L", *starts), struct.pack("<L", 0), b""):
        dataset.PixelData = item(table) + b"".join(map(item, parts)) + b"\xfe\xff\xdd\xe0\0\0\0\0"
        assert np.array_equal(decode(dicom_bytes(dataset)), reference)


@pytest.mark.parametrize("syntax", ENCAPSULATED, ids=lambda syntax: syntax.keyword)
def test_two_frames_are_not_joined_to_one(
    compressed: Callable[..., tuple[Dataset, bytes]], dicom_bytes: Bytes, syntax: UID
) -> None:
    dataset, frame = compressed(syntax)
    dataset.PixelData = encapsulate([frame, frame])
    with pytest.raises(CorruptImage):
        decode(dicom_bytes(dataset))
    dataset.NumberOfFrames = 2
    with pytest.raises(MultiFrame):
        decode(dicom_bytes(dataset))


@pytest.mark.parametrize("syntax", ENCAPSULATED, ids=lambda syntax: syntax.keyword)
def test_the_delimiter_after_the_last_fragment_may_be_missing_and_no_more(
    compressed: Callable[..., tuple[Dataset, bytes]], dicom_bytes: Bytes, syntax: UID
) -> None:
    dataset, _ = compressed(syntax)
    content = dicom_bytes(dataset)
    assert content.endswith(b"\xfe\xff\xdd\xe0\0\0\0\0")
    reference = decode(content)
    for cut in range(1, 9):
        assert np.array_equal(decode(content[:-cut]), reference)
    for cut in (9, 10, 16, 100, len(content) // 2):
        with pytest.raises(CorruptImage):
            decode(content[:-cut])


def test_a_native_file_that_lacks_as_many_bytes_as_a_delimiter_has_is_corrupt(
    scene: np.ndarray, make_dicom: Make, dicom_bytes: Bytes
) -> None:
    content = dicom_bytes(make_dicom(scene))
    for cut in range(1, 12):
        with pytest.raises(CorruptImage):
            decode(content[:-cut])


@pytest.mark.parametrize(
    "syntax", [JPEG2000Lossless, JPEGLSLossless, JPEGLSNearLossless], ids=lambda syntax: syntax.keyword
)
def test_the_end_of_image_marker_may_be_missing_and_no_more(
    compressed: Callable[..., tuple[Dataset, bytes]],
    with_frame: Callable[[Dataset, bytes], bytes],
    syntax: UID,
) -> None:
    dataset, frame = compressed(syntax)
    frame = frame.rstrip(b"\0")
    assert frame.endswith(END)
    reference = decode(with_frame(dataset, frame))
    for cut in (1, 2):
        assert np.array_equal(decode(with_frame(dataset, frame[:-cut])), reference)
    for cut in (4, 5, 10, 100, len(frame) // 2):
        with pytest.raises(CorruptImage):
            decode(with_frame(dataset, frame[:-cut]))


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("JPEGBaselineProcess1", 8),
        ("JPEGExtendedProcess2_4", 8),
        ("JPEGLosslessProcess14_1", 8),
        ("JPEGLosslessProcess14_1", 12),
    ],
)
def test_the_end_of_image_marker_of_jpeg_may_be_missing_and_no_pixel(
    scene: np.ndarray, make_dicom: Make, dicom_bytes: Bytes, by_gdcm: Callable[..., Any], name: str, bits: int
) -> None:
    from io import BytesIO

    from pydicom import dcmread

    pixels = (scene >> 4).astype(np.uint8) if bits == 8 else scene
    dataset = dcmread(BytesIO(by_gdcm(dicom_bytes(make_dicom(pixels, bits=bits)), name)))
    frame = next(generate_frames(dataset.PixelData, number_of_frames=1)).rstrip(b"\0")
    assert frame.endswith(END)
    reference = decode(dicom_bytes(dataset)).astype(int)
    for cut in (1, 2, 3, 4, 5, 6, 10, 50, 1000, len(frame) // 2):
        dataset.PixelData = encapsulate([frame[:-cut] + b"\0" * ((len(frame) - cut) % 2)])
        try:
            found = decode(dicom_bytes(dataset))
        except CorruptImage:
            assert cut > 2
        else:
            # The last bits of a scan may be filling.
            assert cut <= 4
            assert np.array_equal(found, reference)


@pytest.mark.parametrize("stray", [b"\0", b"\x80", b"\0\0", b"ab", b"\0\0\0\0"])
def test_stray_bytes_before_the_marker_of_jpeg_ls_are_ignored(
    compressed: Callable[..., tuple[Dataset, bytes]],
    with_frame: Callable[[Dataset, bytes], bytes],
    stray: bytes,
) -> None:
    dataset, frame = compressed(JPEGLSLossless)
    frame = frame.rstrip(b"\0")
    reference = decode(with_frame(dataset, frame))
    assert np.array_equal(decode(with_frame(dataset, frame[:-2] + stray + END)), reference)


def test_a_codestream_is_decoded_by_what_it_is_if_the_transfer_syntax_names_another_jpeg(
    compressed: Callable[..., tuple[Dataset, bytes]], dicom_bytes: Bytes
) -> None:
    dataset, _ = compressed(JPEGLSLossless)
    reference = decode(dicom_bytes(dataset))
    assert np.array_equal(decode(dicom_bytes(dataset, JPEGBaseline8Bit)), reference)


@pytest.mark.parametrize(
    ("marker", "name"), [(b"\xff\xc9", "JPEG arithmetic, 8 bits"), (b"\xff\xc5", "JPEG hierarchical, 8 bits")]
)
def test_a_process_without_decoder_is_named(
    scene: np.ndarray,
    make_dicom: Make,
    dicom_bytes: Bytes,
    by_gdcm: Callable[..., Any],
    marker: bytes,
    name: str,
) -> None:
    grey = make_dicom((scene >> 4).astype(np.uint8), bits=8)
    content = by_gdcm(dicom_bytes(grey), "JPEGBaselineProcess1")
    assert content.count(b"\xff\xc0") == 1
    with pytest.raises(NoDecoder) as caught:
        decode(content.replace(b"\xff\xc0", marker))
    assert caught.value.detail == name


@pytest.mark.parametrize(
    ("elements", "detail"),
    [
        ({"BitsAllocated": 64, "BitsStored": 64, "HighBit": 63}, "64 bits stored in 64"),
        ({"HighBit": 15}, "high bit"),
        ({"SamplesPerPixel": 4}, "samples"),
        ({"PhotometricInterpretation": "RGB"}, "samples"),
    ],
)
def test_pixels_that_no_radiograph_has_are_unsupported_by_name(
    scene: np.ndarray, make_dicom: Make, dicom_bytes: Bytes, elements: dict[str, Any], detail: str
) -> None:
    with pytest.raises(UnsupportedPixels) as caught:
        decode(dicom_bytes(make_dicom(scene, **elements)))
    assert caught.value.detail == detail
