"""One picture in every transfer syntax, depth, sign and polarity, with and without tables."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, Sequence, uid
from pydicom.encaps import encapsulate

from tests.pictures import decode

Make = Callable[..., Dataset]
Bytes = Callable[..., bytes]

NATIVE = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
)
ENCODED = (uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless)
BY_GDCM = ("JPEGLosslessProcess14", "JPEGLosslessProcess14_1")
#: Encoded by ojph_compress.
HTJ2K = ((uid.HTJ2KLossless, "lossless.j2c"), (uid.HTJ2KLosslessRPCL, "rpcl.j2c"))


def lut(first: int, entries: np.ndarray, bits: int) -> Sequence:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries) % 2**16, first, bits])
    item.add_new("LUTData", "US", [int(entry) for entry in entries])
    return Sequence([item])


def presentations(bits: int, signed: bool, inverse: bool) -> dict[str, dict[str, Any]]:
    """Return elements that leave straight greyscale as it is, or mirror it for MONOCHROME1."""
    least, most = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    polarity = {"PhotometricInterpretation": "MONOCHROME1" if inverse else "MONOCHROME2"}
    straight = np.arange(2**bits)
    window = {
        "WindowCenter": (least + most) / 2,
        "WindowWidth": most - least,
        "VOILUTFunction": "LINEAR_EXACT",
    }
    return {
        "plain": polarity,
        "window": {**polarity, **window},
        "rescale": {**polarity, "RescaleSlope": 1, "RescaleIntercept": -least},
        "modality LUT": {**polarity, "ModalityLUTSequence": lut(least, straight, bits)},
        "VOI LUT": {**polarity, "VOILUTSequence": lut(least, straight, bits)},
        "both LUTs": {
            **polarity,
            "ModalityLUTSequence": lut(least, straight[::-1], bits),
            "VOILUTSequence": lut(0, straight[::-1], bits),
        },
    }


def stored(scene: np.ndarray, bits: int, signed: bool, inverse: bool) -> np.ndarray:
    """Return the scene in some bits, over their whole range."""
    values = scene.astype(np.int64) * (2**bits - 1) // int(scene.max())
    values = 2**bits - 1 - values if inverse else values
    values = values - 2 ** (bits - 1) if signed else values
    return values.astype(f"{'i' if signed else 'u'}{1 if bits == 8 else 2}")


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_one_picture_is_one_picture_in_every_lossless_form(
    scene: np.ndarray, make_dicom: Make, dicom_bytes: Bytes, bits: int
) -> None:
    small = np.ascontiguousarray(scene[:64, :72])
    reference = decode(dicom_bytes(make_dicom(stored(small, bits, False, False), bits=bits)))
    assert reference.std() > 20
    for signed, inverse in product((False, True), (False, True)):
        pixels = stored(small, bits, signed, inverse)
        for name, elements in presentations(bits, signed, inverse).items():
            for syntax in (*NATIVE, *ENCODED):
                dataset = make_dicom(pixels, bits=bits, **elements)
                if syntax in ENCODED:
                    dataset.compress(syntax)
                elif syntax == uid.ExplicitVRBigEndian and bits > 8:
                    dataset.PixelData = pixels.astype(pixels.dtype.newbyteorder(">")).tobytes()
                found = decode(dicom_bytes(dataset, syntax))
                assert np.array_equal(found, reference), (signed, inverse, name, syntax.name)


@pytest.mark.parametrize("name", BY_GDCM)
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_one_picture_is_one_picture_in_jpeg_lossless(
    scene: np.ndarray,
    make_dicom: Make,
    dicom_bytes: Bytes,
    by_gdcm: Callable[..., bytes],
    name: str,
    bits: int,
) -> None:
    reference = decode(dicom_bytes(make_dicom(stored(scene, bits, False, False), bits=bits)))
    for signed, inverse in product((False, True), (False, True)):
        pixels = stored(scene, bits, signed, inverse)
        polarity = {"PhotometricInterpretation": "MONOCHROME1" if inverse else "MONOCHROME2"}
        plain = dicom_bytes(make_dicom(pixels, bits=bits, **polarity))
        assert np.array_equal(decode(by_gdcm(plain, name)), reference), (signed, inverse)


def test_one_picture_is_one_picture_in_high_throughput_jpeg_2000(
    make_dicom: Make, dicom_bytes: Bytes
) -> None:
    y, x = np.mgrid[0:80, 0:64]
    pixels = (x * 40 + y * 18).astype(np.uint16)
    for (syntax, file), (name, elements) in product(HTJ2K, presentations(12, False, False).items()):
        dataset = make_dicom(pixels, **elements)
        reference = decode(dicom_bytes(dataset))
        frame = (Path(__file__).parents[1] / "htj2k" / file).read_bytes()
        dataset.PixelData = encapsulate([frame])
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
        assert np.array_equal(decode(dicom_bytes(dataset, syntax)), reference), (syntax.name, name)
