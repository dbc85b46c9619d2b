"""Look-up tables whose descriptors are wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, Sequence
from pydicom.uid import ExplicitVRBigEndian

from db.jobs.problems import CorruptImage
from tests.pictures import decode

Make = Callable[..., Dataset]
Bytes = Callable[..., bytes]
KEYWORDS = ("VOILUTSequence", "ModalityLUTSequence")
STRAIGHT = np.arange(4096)


def table(count: int, bits: int, entries: Any, dtype: str = "<u2") -> Sequence:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [count % 2**16, 0, bits])
    item.add_new("LUTData", "OW", np.asarray(entries).astype(dtype).tobytes())
    return Sequence([item])


@pytest.fixture
def plain(scene: np.ndarray, make_dicom: Make, dicom_bytes: Bytes) -> np.ndarray:
    """Give the picture without a table, which a straight table does not change."""
    return decode(dicom_bytes(make_dicom(scene)))


@pytest.mark.parametrize("keyword", KEYWORDS)
@pytest.mark.parametrize("depth", [8, 10, 12, 14])
def test_a_descriptor_of_16_bits_is_taken_back_to_the_bits_of_the_table(
    scene: np.ndarray, make_dicom: Make, dicom_bytes: Bytes, plain: np.ndarray, keyword: str, depth: int
) -> None:
    entries = STRAIGHT * (2**depth - 1) // 4095
    found = decode(dicom_bytes(make_dicom(scene, **{keyword: table(4096, 16, entries)})))
    assert np.abs(found.astype(int) - plain).max() <= 1
    inverse = {"PhotometricInterpretation": "MONOCHROME1", keyword: table(4096, 16, entries)}
    found = decode(dicom_bytes(make_dicom(4095 - scene, **inverse)))
    assert np.abs(found.astype(int) - plain).max() <= 1


@pytest.mark.parametrize("keyword", KEYWORDS)
def test_a_table_that_needs_16_bits_keeps_them(
    scene: np.ndarray, make_dicom: Make, dicom_bytes: Bytes, keyword: str
) -> None:
    found = decode(dicom_bytes(make_dicom(scene, **{keyword: table(4096, 16, STRAIGHT * 8)})))
    # 4,095 * 8 is half of 65,535.
    assert found.max() <= 128


@pytest.mark.parametrize("keyword", KEYWORDS)
@pytest.mark.parametrize(("described", "factor"), [(8, 16), (8, 1), (10, 4), (12, 16)])
def test_a_descriptor_with_too_few_bits_is_raised_to_those_of_the_table(
    scene: np.ndarray,
    make_dicom: Make,
    dicom_bytes: Bytes,
    plain: np.ndarray,
    keyword: str,
    described: int,
    factor: int,
) -> None:
    sequence = table(4096, described, STRAIGHT * factor)
    found = decode(dicom_bytes(make_dicom(scene, **{keyword: sequence})))
    assert np.abs(found.astype(int) - plain).max() <= 1


@pytest.mark.parametrize("keyword", KEYWORDS)
@pytest.mark.parametrize("missing", [1, 40])
def test_the_last_entry_stands_for_the_few_that_are_missing(
    scene: np.ndarray, make_dicom: Make, dicom_bytes: Bytes, plain: np.ndarray, keyword: str, missing: int
) -> None:
    for sequence in (
        table(4096, 12, STRAIGHT[:-missing]),
        table(4096, 8, STRAIGHT[: -2 * ((missing + 1) // 2)] >> 4, "u1"),
    ):
        found = decode(dicom_bytes(make_dicom(scene, **{keyword: sequence})))
        assert np.abs(found.astype(int) - plain).max() <= 3


@pytest.mark.parametrize("keyword", KEYWORDS)
def test_a_table_that_is_longer_than_it_says_is_used_whole(
    scene: np.ndarray, make_dicom: Make, dicom_bytes: Bytes, plain: np.ndarray, keyword: str
) -> None:
    found = decode(dicom_bytes(make_dicom(scene, **{keyword: table(4095, 12, STRAIGHT)})))
    assert np.array_equal(found, plain)


@pytest.mark.parametrize("keyword", KEYWORDS)
@pytest.mark.parametrize(
    "sequence",
    [
        table(4096, 12, STRAIGHT[:4000]),
        table(4096, 12, STRAIGHT[:2048]),
        table(4096, 8, STRAIGHT[:100] >> 4, "u1"),
        table(4096, 12, []),
        table(4096, 0, STRAIGHT),
        table(4096, 17, STRAIGHT),
    ],
    ids=["96 missing", "half", "bytes missing", "no data", "0 bits", "17 bits"],
)
def test_a_table_that_contradicts_its_descriptor_is_corrupt(
    scene: np.ndarray, make_dicom: Make, dicom_bytes: Bytes, keyword: str, sequence: Sequence
) -> None:
    with pytest.raises(CorruptImage):
        decode(dicom_bytes(make_dicom(scene, **{keyword: sequence})))


@pytest.mark.parametrize("keyword", KEYWORDS)
def test_empty_items_are_no_tables(
    scene: np.ndarray, make_dicom: Make, dicom_bytes: Bytes, plain: np.ndarray, keyword: str
) -> None:
    empty = Dataset()
    empty.add_new("LUTDescriptor", "US", None)
    empty.add_new("ModalityLUTType", "LO", "")
    empty.add_new("LUTData", "US", None)
    for items in ([empty], [Dataset()], [empty, *table(4096, 16, STRAIGHT)]):
        found = decode(dicom_bytes(make_dicom(scene, **{keyword: Sequence(items)})))
        assert np.array_equal(found, plain)
    # The rescale and the window beside an empty table count.
    scaled = {"RescaleSlope": 2, "RescaleIntercept": -100, "WindowCenter": 2000, "WindowWidth": 3000}
    reference = decode(dicom_bytes(make_dicom(scene, **scaled)))
    found = decode(dicom_bytes(make_dicom(scene, **{keyword: Sequence([empty])}, **scaled)))
    assert np.array_equal(found, reference)


def test_a_table_in_big_endian_is_read_in_its_byte_order(
    scene: np.ndarray, make_dicom: Make, dicom_bytes: Bytes, plain: np.ndarray
) -> None:
    dataset = make_dicom(scene, VOILUTSequence=table(4096, 16, STRAIGHT, ">u2"))
    dataset.PixelData = scene.astype(">u2").tobytes()
    assert np.array_equal(decode(dicom_bytes(dataset, ExplicitVRBigEndian)), plain)
