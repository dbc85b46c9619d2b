"""Compressed images whose codestream and header declare different bits or signs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import JPEG2000, UID, JPEG2000Lossless, JPEGLSLossless, RLELossless

from db.jobs.problems import CorruptImage
from tests.pictures import decode

Make = Callable[..., Dataset]
Bytes = Callable[..., bytes]
Say = Callable[..., np.ndarray]

CODESTREAMS = (JPEG2000Lossless, JPEGLSLossless)
ENCAPSULATED = (*CODESTREAMS, RLELossless)


@pytest.fixture(scope="module")
def wide(scene: np.ndarray) -> np.ndarray:
    """Stretch the scene over the whole range of 12 bits."""
    return np.asarray(scene.astype(np.uint32) * 4095 // scene.max(), dtype=np.uint16)


@pytest.fixture
def shown(make_dicom: Make, dicom_bytes: Bytes) -> Say:
    """Show pixels that are compressed with some bits, under a header that declares others."""

    def show(
        pixels: np.ndarray,
        bits: int,
        syntax: UID | None = None,
        says: dict[str, Any] | None = None,
        **how: Any,
    ) -> np.ndarray:
        dataset = make_dicom(pixels, bits=bits)
        if syntax is not None:
            dataset.compress(syntax, **how)
        for keyword, value in (says or {}).items():
            setattr(dataset, keyword, value)
        return decode(dicom_bytes(dataset)).astype(int)

    return show


def bits(stored: int, **more: Any) -> dict[str, Any]:
    return {"BitsStored": stored, "HighBit": stored - 1, **more}


@pytest.mark.parametrize("syntax", ENCAPSULATED, ids=lambda syntax: syntax.keyword)
def test_a_deeper_image_than_the_header_declares_is_shown_by_its_own_bits(
    wide: np.ndarray, shown: Say, syntax: UID
) -> None:
    full = (wide.astype(np.uint32) * 65535 // 4095).astype(np.uint16)
    found = shown(full, 16, syntax, bits(12))
    assert np.abs(found - shown(wide, 12)).max() <= 1


@pytest.mark.parametrize("syntax", ENCAPSULATED, ids=lambda syntax: syntax.keyword)
@pytest.mark.parametrize("signed", [False, True])
def test_a_deeper_codestream_whose_values_fit_the_header_is_shown_by_the_header(
    wide: np.ndarray, shown: Say, syntax: UID, signed: bool
) -> None:
    pixels = (wide.astype(np.int32) - 2048).astype(np.int16) if signed else wide
    assert np.array_equal(shown(pixels, 16, syntax, bits(12)), shown(wide, 12))


@pytest.mark.parametrize("syntax", CODESTREAMS, ids=lambda syntax: syntax.keyword)
def test_a_shallower_codestream_is_shown_by_its_own_bits(wide: np.ndarray, shown: Say, syntax: UID) -> None:
    assert np.array_equal(shown(wide, 12, syntax, bits(16)), shown(wide, 12))
    grey = (wide >> 4).astype(np.uint8)
    for stored in (8, 12, 16):
        found = shown(grey, 8, syntax, bits(stored, BitsAllocated=16))
        assert np.array_equal(found, shown(grey, 8))


@pytest.mark.parametrize("syntax", ENCAPSULATED, ids=lambda syntax: syntax.keyword)
@pytest.mark.parametrize("beyond", [1, 50, 200])
def test_values_a_little_beyond_the_header_are_white_and_not_black(
    wide: np.ndarray, shown: Say, syntax: UID, beyond: int
) -> None:
    ten = (wide >> 2).astype(np.uint16)
    overshot = np.where(ten > 1000, 1023 + beyond, ten).astype(np.uint16)
    clipped = np.minimum(overshot, 1023).astype(np.uint16)
    assert np.array_equal(shown(overshot, 12, syntax, bits(10)), shown(clipped, 10))


def test_the_overshoot_of_lossy_compression_is_cut(wide: np.ndarray, shown: Say) -> None:
    ten = np.where(wide > 3000, 1023, wide >> 2).astype(np.uint16)
    found = shown(ten, 12, JPEG2000, bits(10), j2k_cr=[20])
    assert np.abs(found - shown(ten, 10)).mean() < 2
    assert found[shown(ten, 10) == 255].min() > 128


def test_native_values_lose_the_bits_above_those_stored(wide: np.ndarray, shown: Say) -> None:
    assert np.array_equal(shown(wide | 0xF000, 12), shown(wide, 12))


@pytest.mark.parametrize("syntax", ENCAPSULATED, ids=lambda syntax: syntax.keyword)
def test_an_overlay_in_the_unused_bits_is_not_part_of_a_compressed_picture(
    wide: np.ndarray, make_dicom: Make, dicom_bytes: Bytes, shown: Say, syntax: UID
) -> None:
    covered = wide.copy()
    covered[50:90, 30:200] |= 0x8000
    dataset = make_dicom(covered, bits=16)
    dataset.compress(syntax)
    dataset.BitsStored, dataset.HighBit = 12, 11
    dataset.add_new((0x6000, 0x0100), "US", 16)
    dataset.add_new((0x6000, 0x0102), "US", 15)
    assert np.array_equal(decode(dicom_bytes(dataset)), shown(wide, 12))


def test_an_overlay_in_its_own_element_is_not_part_of_the_picture(
    wide: np.ndarray, make_dicom: Make, dicom_bytes: Bytes, shown: Say
) -> None:
    dataset = make_dicom(wide)
    dataset.add_new((0x6000, 0x0010), "US", 300)
    dataset.add_new((0x6000, 0x0011), "US", 256)
    dataset.add_new((0x6000, 0x0040), "CS", "G")
    dataset.add_new((0x6000, 0x0050), "SS", [1, 1])
    dataset.add_new((0x6000, 0x0100), "US", 1)
    dataset.add_new((0x6000, 0x0102), "US", 0)
    dataset.add_new((0x6000, 0x3000), "OW", b"\xff" * (300 * 256 // 8))
    assert np.array_equal(decode(dicom_bytes(dataset)), shown(wide, 12))


@pytest.mark.parametrize("syntax", ENCAPSULATED, ids=lambda syntax: syntax.keyword)
@pytest.mark.parametrize("depth", [8, 10, 12, 14, 16])
def test_signed_values_are_the_same_in_every_depth(
    scene: np.ndarray, shown: Say, syntax: UID, depth: int
) -> None:
    deep = scene.astype(np.int32) * (2**depth - 1) // 4095 - 2 ** (depth - 1)
    pixels = deep.astype(np.int8 if depth == 8 else np.int16)
    assert np.array_equal(shown(pixels, depth, syntax), shown(pixels, depth))


def test_a_signed_codestream_under_an_unsigned_header_is_read_right(wide: np.ndarray, shown: Say) -> None:
    # The header is wrong: values below zero, which do not wrap around.
    below = (wide.astype(np.int32) - 2048).astype(np.int16)
    found = shown(below, 12, JPEG2000Lossless, {"PixelRepresentation": 0})
    assert np.array_equal(found, shown(wide, 12))
    # The codestream is wrong: bit patterns of unsigned values.
    patterns = np.where(wide >= 2048, wide.astype(np.int32) - 4096, wide).astype(np.int16)
    found = shown(patterns, 12, JPEG2000Lossless, {"PixelRepresentation": 0})
    assert np.array_equal(found, shown(wide, 12))
    # Neither: values that both understand.
    found = shown((wide >> 1).astype(np.int16), 12, JPEG2000Lossless, bits(11, PixelRepresentation=0))
    assert np.array_equal(found, shown((wide >> 1).astype(np.uint16), 11))


def test_an_unsigned_codestream_under_a_signed_header_is_read_right(wide: np.ndarray, shown: Say) -> None:
    below = (wide.astype(np.int32) - 2048).astype(np.int16)
    # As encoders write it that know no signs.
    for depth in (12, 16):
        patterns = below.view(np.uint16) & np.uint16(2**depth - 1)
        found = shown(patterns, depth, JPEG2000Lossless, bits(12, PixelRepresentation=1))
        assert np.array_equal(found, shown(below, 12))
    found = shown(wide, 12, JPEG2000Lossless, {"PixelRepresentation": 1})
    assert np.array_equal(found, shown(wide, 12))


@pytest.mark.parametrize("syntax", ENCAPSULATED, ids=lambda syntax: syntax.keyword)
def test_negative_values_without_their_upper_bits_are_negative(
    wide: np.ndarray, shown: Say, syntax: UID
) -> None:
    below = (wide.astype(np.int32) - 2048).astype(np.int16)
    patterns = below.view(np.uint16) & np.uint16(0x0FFF)
    found = shown(patterns, 16, syntax, bits(12, PixelRepresentation=1))
    assert np.array_equal(found, shown(below, 12))


def test_signs_that_contradict_each_other_are_corrupt_if_the_picture_does_not_tell(shown: Say) -> None:
    noise = np.random.default_rng(0).integers(0, 4096, (80, 80))
    with pytest.raises(CorruptImage):
        shown((noise - 2048).astype(np.int16), 12, JPEG2000Lossless, {"PixelRepresentation": 0})
    with pytest.raises(CorruptImage):
        shown(noise.astype(np.uint16), 12, JPEG2000Lossless, {"PixelRepresentation": 1})
    # Values of 11 bits under a header of 12: the header may mean them, and the codestream may not.
    with pytest.raises(CorruptImage):
        shown((noise >> 1).astype(np.int16), 12, JPEG2000Lossless, {"PixelRepresentation": 0})


@pytest.mark.parametrize("depth", [10, 12, 14])
@pytest.mark.parametrize(
    "syntax", [None, *ENCAPSULATED], ids=lambda syntax: getattr(syntax, "keyword", "native")
)
def test_16_bits_without_a_scale_are_shown_over_the_depth_that_they_use(
    scene: np.ndarray, shown: Say, depth: int, syntax: UID | None
) -> None:
    values = (scene.astype(np.uint32) * (2**depth - 1) // 4095).astype(np.uint16)
    expected = shown(values, depth)
    assert np.array_equal(shown(values, 16, syntax), expected)
    inverse = {"PhotometricInterpretation": "MONOCHROME1"}
    found = shown((2**depth - 1 - values).astype(np.uint16), 16, syntax, inverse)
    assert np.array_equal(found, expected)


def test_16_bits_that_are_used_or_have_a_scale_keep_it(scene: np.ndarray, shown: Say) -> None:
    assert shown(scene * 16, 16).max() > 200
    window = {"WindowCenter": 32768, "WindowWidth": 65536}
    assert shown(scene, 16, None, window).max() <= 16
    # Almost black: no detector has 8 bits in 16.
    assert shown(scene >> 8, 16).max() < 16


def test_padding_is_not_part_of_the_depth_that_is_used(scene: np.ndarray, shown: Say) -> None:
    padded = scene.copy()
    padded[:, :40] = 65535
    black = scene.copy()
    black[:, :40] = 0
    assert np.array_equal(shown(padded, 16, None, {"PixelPaddingValue": 65535}), shown(black, 12))
    window = {"PixelPaddingValue": 60000, "PixelPaddingRangeLimit": 65535}
    assert np.array_equal(shown(padded, 16, None, window), shown(black, 12))


@pytest.mark.parametrize(
    "syntax", [None, *ENCAPSULATED], ids=lambda syntax: getattr(syntax, "keyword", "native")
)
def test_padding_of_all_allocated_bits_is_black(scene: np.ndarray, shown: Say, syntax: UID | None) -> None:
    padded, black = scene.copy(), scene.copy()
    padded[:, :40], black[:, :40] = 65535, 0
    found = shown(padded, 16, syntax, bits(12, PixelPaddingValue=65535))
    assert np.array_equal(found, shown(black, 12))
