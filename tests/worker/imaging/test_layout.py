"""Which layouts of pixels a radiograph has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset

from db.jobs.problems import ColourImage, CorruptImage, ImageProblem, TooFewPixels, UnsupportedPixels
from tests.pictures import decode

Send = Callable[..., None]


@pytest.fixture
def send(scene: np.ndarray, make_dicom: Callable[..., Dataset], dicom_bytes: Callable[..., bytes]) -> Send:
    """Decode a radiograph with changed elements; `None` removes an element."""

    def sent(**elements: Any) -> None:
        dataset = make_dicom(scene)
        for keyword, value in elements.items():
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)
        decode(dicom_bytes(dataset))

    return sent


@pytest.mark.parametrize(
    ("elements", "problem"),
    [
        ({"PhotometricInterpretation": "CMYK"}, UnsupportedPixels),
        ({"HighBit": 15}, UnsupportedPixels),
        ({"BitsStored": 17, "HighBit": 16}, CorruptImage),
        ({"BitsAllocated": 64}, UnsupportedPixels),
        ({"Rows": 63}, TooFewPixels),
    ],
    ids=str,
)
def test_a_layout_that_is_not_read_has_the_reason(
    send: Send, elements: dict[str, Any], problem: type[ImageProblem]
) -> None:
    with pytest.raises(problem) as caught:
        send(**elements)
    assert type(caught.value) is problem


def test_a_grey_image_saved_as_rgb_is_screened_as_grey(
    scene: np.ndarray, make_dicom: Callable[..., Dataset], dicom_bytes: Callable[..., bytes]
) -> None:
    grey = (scene >> 4).astype(np.uint8)
    reference = decode(dicom_bytes(make_dicom(grey, bits=8)))
    rgb = np.stack([grey] * 3, axis=2)
    assert np.array_equal(decode(dicom_bytes(make_dicom(rgb, bits=8))), reference)
    # A coloured marker on less than 1 % of the pixels is allowed, and so are differences by rounding.
    marked = rgb.copy()
    marked[:20, :20] = (255, 255, 0)
    marked[100:, :, 1] -= marked[100:, :, 1] // 100
    decode(dicom_bytes(make_dicom(marked, bits=8)))
    marked[:60, :60] = (255, 255, 0)
    with pytest.raises(ColourImage):
        decode(dicom_bytes(make_dicom(marked, bits=8)))


def test_a_grey_image_in_ybr_is_screened_as_grey(
    scene: np.ndarray, make_dicom: Callable[..., Dataset], dicom_bytes: Callable[..., bytes]
) -> None:
    grey = (scene >> 4).astype(np.uint8)
    ybr = np.stack([grey, np.full_like(grey, 128), np.full_like(grey, 128)], axis=2)
    shown = decode(dicom_bytes(make_dicom(ybr, bits=8, PhotometricInterpretation="YBR_FULL")))
    assert np.abs(shown.astype(int) - decode(dicom_bytes(make_dicom(grey, bits=8)))).max() <= 1
