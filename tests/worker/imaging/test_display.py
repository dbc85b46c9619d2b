"""Display of stored values, against values that were computed by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, Sequence
from pydicom.uid import ImplicitVRLittleEndian

from db.jobs.problems import CorruptImage
from tests.pictures import decode

Shade = Callable[..., int]


@pytest.mark.parametrize(
    ("value", "expected"), [(0, 0), (1, 0), (16, 1), (2048, 128), (4080, 254), (4095, 255)]
)
def test_without_a_window_the_whole_range_of_the_stored_bits_is_shown(
    shade: Shade, value: int, expected: int
) -> None:
    assert shade(value) == expected


def test_an_underexposed_image_stays_dark(
    make_dicom: Callable[..., Dataset], dicom_bytes: Callable[..., bytes]
) -> None:
    dim = np.tile(np.arange(256, dtype=np.uint16), (100, 1))
    assert decode(dicom_bytes(make_dicom(dim))).max() == 16


# PS3.3 C.11.2.1.2.1 by hand: ((x - (c - 0.5)) / (w - 1) + 0.5) * 255.
LINEAR = [
    (1000, 0),
    (1500, 0),
    (1501, 0),
    (1750, 64),
    (2000, 128),
    (2400, 230),
    (2499, 255),
    (2500, 255),
    (4095, 255),
]
# C.11.2.1.3.2: ((x - c) / w + 0.5) * 255.
EXACT = [(1000, 0), (1500, 0), (1502, 1), (1750, 64), (2000, 128), (2400, 230), (2500, 255), (4095, 255)]
# C.11.2.1.3.1: 255 / (1 + exp(-4 (x - c) / w)).
SIGMOID = [(0, 0), (1000, 5), (1500, 30), (2000, 128), (2250, 186), (2500, 225), (3000, 250), (4095, 255)]


WINDOWED = [
    (function, *pair)
    for function, pairs in (("LINEAR", LINEAR), ("LINEAR_EXACT", EXACT), ("SIGMOID", SIGMOID))
    for pair in pairs
]


@pytest.mark.parametrize(("function", "value", "expected"), WINDOWED)
def test_a_window_shows_what_the_standard_computes(
    shade: Shade, function: str, value: int, expected: int
) -> None:
    assert shade(value, WindowCenter=2000, WindowWidth=1000, VOILUTFunction=function) == expected
    if function == "LINEAR":
        assert shade(value, WindowCenter=2000, WindowWidth=1000) == expected


def test_a_narrow_window_tells_linear_from_linear_exact(shade: Shade) -> None:
    window = {"WindowCenter": 100, "WindowWidth": 4}
    # ((99 - 99.5) / 3 + 0.5) * 255 and so on; exact, ((99 - 100) / 4 + 0.5) * 255.
    assert [shade(value, **window) for value in range(98, 102)] == [0, 85, 170, 255]
    exact = [shade(value, VOILUTFunction="LINEAR_EXACT", **window) for value in range(98, 103)]
    assert exact == [0, 64, 128, 191, 255]


def test_a_window_of_width_one_is_a_threshold(shade: Shade) -> None:
    assert [shade(value, WindowCenter=100, WindowWidth=1) for value in (98, 99, 100, 101)] == [0, 0, 255, 255]


def test_the_first_of_several_windows_is_used(shade: Shade) -> None:
    assert shade(1750, WindowCenter=[2000, 40], WindowWidth=[1000, 400]) == 64


@pytest.mark.parametrize("width", [0, -100, 0.5])
def test_a_window_without_width_is_ignored(shade: Shade, width: float) -> None:
    assert shade(2048, WindowCenter=100, WindowWidth=width) == 128


def test_a_window_with_one_half_missing_is_ignored(shade: Shade) -> None:
    assert shade(2048, WindowCenter=100) == 128
    assert shade(2048, WindowWidth=100) == 128


def test_a_window_that_is_no_number_is_ignored(
    make_dicom: Callable[..., Dataset], dicom_bytes: Callable[..., bytes]
) -> None:
    content = dicom_bytes(
        make_dicom(np.full((64, 64), 2048, np.uint16), WindowCenter="20.5", WindowWidth="11")
    )
    assert (decode(content) == 255).all()
    assert (decode(content.replace(b"20.5", b"20,5")) == 128).all()


def test_rescale_comes_before_the_window(shade: Shade) -> None:
    rescaled = {"RescaleSlope": 2, "RescaleIntercept": -1000}
    # 1375 * 2 - 1000 = 1750
    assert shade(1375, WindowCenter=2000, WindowWidth=1000, **rescaled) == 64
    # Without a window the range is rescaled too.
    assert shade(2048, **rescaled) == 128
    assert shade(1024, RescaleSlope=-1, RescaleIntercept=0) == 191


def test_a_rescale_slope_of_zero_is_corrupt(shade: Shade) -> None:
    with pytest.raises(CorruptImage):
        shade(1, RescaleSlope=0, RescaleIntercept=0)


@pytest.mark.parametrize(("value", "expected"), [(-2048, 0), (-1024, 64), (0, 128), (2047, 255)])
def test_signed_values_are_shown_over_their_range(shade: Shade, value: int, expected: int) -> None:
    assert shade(value, dtype="int16") == expected


def test_signed_values_pass_a_window(shade: Shade) -> None:
    assert shade(-250, dtype="int16", WindowCenter=0, WindowWidth=1000) == 64


@pytest.mark.parametrize(
    ("bits", "dtype"), [(8, "uint8"), (10, "uint16"), (14, "uint16"), (16, "uint16"), (12, "uint32")]
)
def test_every_depth_has_its_own_white(shade: Shade, bits: int, dtype: str) -> None:
    assert shade(2**bits - 1, dtype=dtype, bits=bits) == 255
    assert shade(2 ** (bits - 1), dtype=dtype, bits=bits) == 128


def test_bits_above_the_stored_ones_are_ignored(shade: Shade) -> None:
    assert shade(0xF000 | 2048) == 128
    # The lower twelve bits of -1024, with the sign cut off.
    assert shade(0x0C00, dtype="int16") == 64


def test_monochrome1_and_monochrome2_of_one_scene_give_one_picture(
    scene: np.ndarray, make_dicom: Callable[..., Dataset], dicom_bytes: Callable[..., bytes]
) -> None:
    reference = decode(dicom_bytes(make_dicom(scene)))
    inverted = make_dicom(4095 - scene, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(decode(dicom_bytes(inverted)), reference)
    window = {"WindowCenter": 1500, "WindowWidth": 2000, "VOILUTFunction": "LINEAR_EXACT"}
    mirrored = {**window, "WindowCenter": 4095 - 1500}
    inverted = make_dicom(4095 - scene, PhotometricInterpretation="MONOCHROME1", **mirrored)
    assert np.array_equal(decode(dicom_bytes(inverted)), decode(dicom_bytes(make_dicom(scene, **window))))


@pytest.mark.parametrize("shape", ["INVERSE", "IDENTITY", None])
def test_polarity_is_turned_once_whatever_the_presentation_lut_shape_says(
    shade: Shade, shape: str | None
) -> None:
    said = {"PresentationLUTShape": shape} if shape else {}
    assert shade(0, PhotometricInterpretation="MONOCHROME1", **said) == 255
    assert shade(0, PhotometricInterpretation="MONOCHROME2", **said) == 0


def test_polarity_is_turned_after_the_window_and_not_before(shade: Shade) -> None:
    window = {"WindowCenter": 1000, "WindowWidth": 500}
    assert shade(1500, PhotometricInterpretation="MONOCHROME1", **window) == 0
    assert shade(500, PhotometricInterpretation="MONOCHROME1", **window) == 255


def test_padding_is_black_in_either_polarity(shade: Shade) -> None:
    for polarity in ("MONOCHROME1", "MONOCHROME2"):
        said = {"PhotometricInterpretation": polarity, "PixelPaddingValue": 4000}
        assert shade(4000, **said) == 0
        assert shade(2048, **said) in (127, 128)
        assert shade(3000, PixelPaddingRangeLimit=2900, **said) == 0
    assert shade(-2000, dtype="int16", PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=-2000) == 0


def lut(entries: list[int], first: int, bits: int) -> Sequence:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries) % 2**16, first, bits])
    item.add_new("LUTData", "US", entries)
    return Sequence([item])


# Four entries of 10 bits that begin at stored value 100.
STEPS = [0, 1023, 512, 256]
LOOKED_UP = [(0, 0), (100, 0), (101, 255), (102, 128), (103, 64), (104, 64), (4095, 64)]


@pytest.mark.parametrize(("value", "expected"), LOOKED_UP)
@pytest.mark.parametrize("keyword", ["VOILUTSequence", "ModalityLUTSequence"])
def test_a_lut_is_looked_up_and_scaled_by_the_bits_of_its_descriptor(
    shade: Shade, keyword: str, value: int, expected: int
) -> None:
    assert shade(value, **{keyword: lut(STEPS, 100, 10)}) == expected


def test_a_lut_of_signed_values_begins_below_zero(shade: Shade) -> None:
    assert shade(-99, dtype="int16", VOILUTSequence=lut(STEPS, -100, 10)) == 255
    # The same two bytes, taken as unsigned.
    assert shade(-99, dtype="int16", VOILUTSequence=lut(STEPS, 65436, 10)) == 255


def test_a_lut_of_65536_entries_has_zero_as_their_number(shade: Shade) -> None:
    table = [65535 - entry for entry in range(65536)]
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [0, 0, 16])
    item.add_new("LUTData", "OW", np.array(table, "<u2").tobytes())
    assert shade(0, bits=16, VOILUTSequence=Sequence([item])) == 255
    assert shade(65535, bits=16, VOILUTSequence=Sequence([item])) == 0


def test_a_lut_of_eight_bits_may_be_packed_two_to_a_word(shade: Shade) -> None:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [4, 0, 8])
    item.add_new("LUTData", "US", [0x6400, 0xFFC8])
    shown = [shade(value, VOILUTSequence=Sequence([item])) for value in range(4)]
    assert shown == [0, 100, 200, 255]
    item.add_new("LUTData", "OW", bytes([0, 100, 200, 255]))
    assert [shade(value, VOILUTSequence=Sequence([item])) for value in range(4)] == shown


def test_with_an_empty_voi_lut_the_window_is_used(shade: Shade) -> None:
    window = {"WindowCenter": 2000, "WindowWidth": 1000}
    assert shade(1750, VOILUTSequence=Sequence([]), **window) == 64
    assert shade(1750, VOILUTSequence=Sequence([Dataset()]), **window) == 64


def test_a_lut_shorter_than_it_says_is_corrupt(shade: Shade) -> None:
    item = lut(STEPS, 0, 10)
    item[0].LUTDescriptor = [40, 0, 10]
    with pytest.raises(CorruptImage):
        shade(0, VOILUTSequence=item)


@pytest.mark.parametrize("signed", [False, True])
def test_padding_and_luts_have_the_right_sign_in_implicit_encoding(
    make_dicom: Callable[..., Dataset], dicom_bytes: Callable[..., bytes], signed: bool
) -> None:
    first = -100 if signed else 100

    def shown(value: int, **elements: Any) -> int:
        pixels = np.full((64, 64), value, "int16" if signed else "uint16")
        dataset = make_dicom(pixels, PhotometricInterpretation="MONOCHROME1", **elements)
        return int(decode(dicom_bytes(dataset, ImplicitVRLittleEndian))[0, 0, 0])

    assert shown(first, PixelPaddingValue=first) == 0
    assert shown(first + 1, PixelPaddingValue=first) > 0
    assert shown(first + 1, VOILUTSequence=lut(STEPS, first, 10)) == 0
    assert shown(first, VOILUTSequence=lut(STEPS, first, 10)) == 255
