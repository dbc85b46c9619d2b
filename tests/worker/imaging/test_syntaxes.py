"""Transfer syntaxes of radiographs."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread, dcmwrite, uid
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, generate_frames

from db.jobs.problems import CorruptImage, NoDecoder
from tests.pictures import decode
from worker.decoding.codecs import available_decoders
from worker.imaging.pixels.layout import read_layout
from worker.imaging.pixels.stored import stored_values

Bytes = Callable[..., bytes]
Make = Callable[..., Dataset]


def syntax_of(content: bytes) -> str:
    return str(dcmread(BytesIO(content), stop_before_pixels=True).file_meta.TransferSyntaxUID)


@pytest.mark.parametrize(
    "syntax",
    [
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.DeflatedExplicitVRLittleEndian,
        uid.RLELossless,
        uid.JPEGLSLossless,
        uid.JPEG2000Lossless,
    ],
    ids=lambda syntax: syntax.keyword,
)
@pytest.mark.parametrize("dtype", ["uint16", "int16"])
def test_a_lossless_syntax_changes_nothing(
    scene: np.ndarray, make_dicom: Make, dicom_bytes: Bytes, syntax: uid.UID, dtype: str
) -> None:
    pixels = (scene - 2048).astype(np.int16) if dtype == "int16" else scene
    reference = decode(dicom_bytes(make_dicom(pixels)))
    dataset = make_dicom(pixels)
    if syntax.is_compressed and syntax != uid.DeflatedExplicitVRLittleEndian:
        dataset.compress(syntax)
    content = dicom_bytes(dataset, syntax)
    assert syntax_of(content) == syntax
    assert np.array_equal(decode(content), reference)


def test_big_endian_changes_nothing(scene: np.ndarray, make_dicom: Make, dicom_bytes: Bytes) -> None:
    dataset = make_dicom(scene)
    dataset.PixelData = scene.astype(">u2").tobytes()
    assert np.array_equal(
        decode(dicom_bytes(dataset, uid.ExplicitVRBigEndian)), decode(dicom_bytes(make_dicom(scene)))
    )


@pytest.mark.parametrize(
    ("name", "syntax"),
    [
        ("JPEGLosslessProcess14", uid.JPEGLossless),
        ("JPEGLosslessProcess14_1", uid.JPEGLosslessSV1),
        ("JPEGLSLossless", uid.JPEGLSLossless),
        ("JPEG2000Lossless", uid.JPEG2000Lossless),
        ("RLELossless", uid.RLELossless),
    ],
)
def test_lossless_by_gdcm_changes_nothing(
    scene: np.ndarray, make_dicom: Make, dicom_bytes: Bytes, by_gdcm: Bytes, name: str, syntax: str
) -> None:
    plain = dicom_bytes(make_dicom(scene))
    encoded = by_gdcm(plain, name)
    assert syntax_of(encoded) == syntax
    assert np.array_equal(decode(encoded), decode(plain))


@pytest.mark.parametrize(
    ("name", "syntax", "bits"),
    [
        ("JPEGBaselineProcess1", uid.JPEGBaseline8Bit, 8),
        ("JPEGExtendedProcess2_4", uid.JPEGExtended12Bit, 8),
        ("JPEG2000", uid.JPEG2000, 8),
        ("JPEG2000", uid.JPEG2000, 12),
    ],
)
def test_lossy_by_gdcm_looks_the_same(
    scene: np.ndarray, make_dicom: Make, dicom_bytes: Bytes, by_gdcm: Bytes, name: str, syntax: str, bits: int
) -> None:
    pixels = (scene >> 4).astype(np.uint8) if bits == 8 else scene
    plain = dicom_bytes(make_dicom(pixels, bits=bits))
    encoded = by_gdcm(plain, name)
    assert syntax_of(encoded) == syntax
    assert np.abs(decode(encoded).astype(int) - decode(plain)).max() <= 3


def test_near_lossless_jpeg_ls_and_lossy_jpeg_2000_look_the_same(
    scene: np.ndarray, make_dicom: Make, dicom_bytes: Bytes
) -> None:
    reference = decode(dicom_bytes(make_dicom(scene))).astype(int)
    near = make_dicom(scene)
    near.compress(uid.JPEGLSNearLossless, jls_error=4)
    assert np.abs(decode(dicom_bytes(near)) - reference).max() <= 1
    lossy = make_dicom(scene)
    lossy.compress(uid.JPEG2000, j2k_cr=[5])
    assert np.abs(decode(dicom_bytes(lossy)) - reference).max() <= 3


@pytest.mark.parametrize("name", ["JPEG-lossy.dcm", "JPGExtended.dcm"])
def test_twelve_bit_jpeg_of_other_encoders_is_decoded(name: str) -> None:
    dataset = dcmread(str(get_testdata_file(name, download=False)))
    stored = stored_values(dataset, read_layout(dataset)).patterns
    assert stored.shape == (1024, 256)
    # Values from dcmtk's dcmdjpeg.
    assert (stored.min(), stored.max()) == (0, 264)
    assert (stored.argmax(), stored.sum(dtype=np.int64)) == (107919, 3767007)


@pytest.mark.parametrize(
    ("name", "syntax", "tolerance"),
    [
        ("lossless.j2c", uid.HTJ2KLossless, 0),
        ("rpcl.j2c", uid.HTJ2KLosslessRPCL, 0),
        ("lossy.j2c", uid.HTJ2K, 1),
    ],
)
def test_htj2k_by_openjph_looks_the_same(
    make_dicom: Make, dicom_bytes: Bytes, name: str, syntax: uid.UID, tolerance: int
) -> None:
    # Encoded by ojph_compress 0.9: `-reversible true -prog_order LRCP`, the same with RPCL, and
    # `-reversible false -qstep 0.001`.
    y, x = np.mgrid[0:80, 0:64]
    dataset = make_dicom((x * 40 + y * 18).astype(np.uint16))
    reference = decode(dicom_bytes(dataset)).astype(int)
    frame = (Path(__file__).parent / "htj2k" / name).read_bytes()
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    assert np.abs(decode(dicom_bytes(dataset, syntax)) - reference).max() <= tolerance


def test_a_compressed_frame_that_is_cut_off_is_corrupt(
    scene: np.ndarray, make_dicom: Make, dicom_bytes: Bytes
) -> None:
    for syntax in (uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless):
        dataset = make_dicom(scene)
        dataset.compress(syntax)
        frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
        dataset.PixelData = encapsulate([frame[: len(frame) // 4 * 2]])
        with pytest.raises(CorruptImage):
            decode(dicom_bytes(dataset))


def test_a_file_cut_off_in_its_pixels_is_corrupt(
    scene: np.ndarray, make_dicom: Make, dicom_bytes: Bytes
) -> None:
    plain = dicom_bytes(make_dicom(scene))
    compressed = make_dicom(scene)
    compressed.compress(uid.RLELossless)
    for content in (plain, dicom_bytes(compressed)):
        for share in (0.5, 0.9, 0.99):
            with pytest.raises(CorruptImage):
                decode(content[: int(len(content) * share)])


def test_a_file_without_preamble_or_without_header_is_read(
    scene: np.ndarray, make_dicom: Make, dicom_bytes: Bytes
) -> None:
    for syntax in (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian):
        dataset = make_dicom(scene, ImageType=["ORIGINAL", "PRIMARY"])
        if syntax == uid.ExplicitVRBigEndian:
            dataset.PixelData = scene.astype(">u2").tobytes()
        content = dicom_bytes(dataset, syntax)
        reference = decode(content)
        assert np.array_equal(decode(content[132:]), reference)
        meta_end = 144 + int.from_bytes(content[140:144], "little")
        assert np.array_equal(decode(content[meta_end:]), reference)


@pytest.mark.parametrize(
    ("syntax", "name"),
    [
        (uid.MPEG2MPML, "MPEG2 Main Profile / Main Level"),
        (uid.UID("1.2.840.10008.1.2.4.94"), "JPIP Referenced"),
        (uid.UID("1.2.3.4.5"), ""),
    ],
    ids=str,
)
def test_a_syntax_without_decoder_says_its_public_name(
    scene: np.ndarray, make_dicom: Make, syntax: str, name: str
) -> None:
    dataset = make_dicom(scene)
    dataset.compress(uid.RLELossless)
    dataset.file_meta.TransferSyntaxUID = syntax
    buffer = BytesIO()
    dcmwrite(buffer, dataset, implicit_vr=False, little_endian=True, enforce_file_format=True)
    assert syntax_of(buffer.getvalue()) == syntax
    with pytest.raises(NoDecoder) as caught:
        decode(buffer.getvalue())
    assert caught.value.detail == name


def test_a_syntax_that_is_newer_than_the_library_has_its_name(
    scene: np.ndarray, make_dicom: Make, dicom_bytes: Bytes
) -> None:
    dataset = make_dicom(scene)
    dataset.compress(uid.RLELossless)
    content = dicom_bytes(dataset)
    at = content.index(b"1.2.840.10008.1.2.5\0")
    assert content[at - 4 : at] == b"UI\x14\0"
    # Three letters more for the UID, and for the length of the file meta information.
    newer = b"1.2.840.10008.1.2.4.112\0"
    length = int.from_bytes(content[140:144], "little") + 4
    content = content[:140] + length.to_bytes(4, "little") + content[144:at]
    content = content[:-4] + b"UI\x18\0" + newer + dicom_bytes(dataset)[at + 20 :]
    with pytest.raises(NoDecoder) as caught:
        decode(content)
    assert caught.value.detail == "JPEG XL"


def test_two_transfer_syntaxes_at_once_are_corrupt(
    scene: np.ndarray, make_dicom: Make, dicom_bytes: Bytes
) -> None:
    content = dicom_bytes(make_dicom(scene))
    at = content.index(b"1.2.840.10008.1.2.1")
    with pytest.raises(CorruptImage):
        decode(content[: at + 13] + b"\\" + content[at + 14 :])


def test_every_syntax_of_a_radiograph_has_a_decoder_here() -> None:
    found = available_decoders()
    assert len(found) == 16
    assert all(found.values()), found
