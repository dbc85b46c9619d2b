"""Display Shutters, PS3.3 C.7.6.11."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset

from tests.pictures import decode

Open = Callable[..., np.ndarray]

RECTANGLE = {
    "ShutterLeftVerticalEdge": 23,
    "ShutterRightVerticalEdge": 200,
    "ShutterUpperHorizontalEdge": 45,
    "ShutterLowerHorizontalEdge": 180,
}
CIRCLE = {"CenterOfCircularShutter": [112, 100], "RadiusOfCircularShutter": 60}
POLYGON = {"VerticesOfThePolygonalShutter": [20, 30, 20, 200, 200, 110]}


@pytest.fixture
def opened(make_dicom: Callable[..., Dataset], dicom_bytes: Callable[..., bytes]) -> Open:
    """Tell which pixels of an even image of the picture's own size are not black."""

    def shown(*shapes: str, polarity: str = "MONOCHROME2", **numbers: Any) -> np.ndarray:
        even = np.full((224, 224), 3000, np.uint16)
        dataset = make_dicom(even, PhotometricInterpretation=polarity, ShutterShape=list(shapes), **numbers)
        pixels = decode(dicom_bytes(dataset))[:, :, 0]
        assert set(np.unique(pixels)) <= {0, 187, 68}
        return np.asarray(pixels > 0)

    return shown


def rectangle() -> np.ndarray:
    row, column = np.ogrid[1:225, 1:225]
    return np.asarray((row >= 45) & (row <= 180) & (column >= 23) & (column <= 200))


def circle() -> np.ndarray:
    row, column = np.ogrid[1:225, 1:225]
    return np.asarray((row - 112) ** 2 + (column - 100) ** 2 <= 60**2)


def triangle() -> np.ndarray:
    row, column = np.ogrid[1:225, 1:225]
    # From (20, 30) and (20, 200), in rows and columns, to (200, 110).
    left, right = 30 + (row - 20) * 80 / 180, 200 - (row - 20) * 90 / 180
    return np.asarray((row >= 20) & (row <= 200) & (column >= left) & (column <= right))


@pytest.mark.parametrize("polarity", ["MONOCHROME1", "MONOCHROME2"])
def test_what_a_shutter_closes_is_black_in_either_polarity(opened: Open, polarity: str) -> None:
    assert np.array_equal(opened("RECTANGULAR", polarity=polarity, **RECTANGLE), rectangle())
    assert np.array_equal(opened("CIRCULAR", polarity=polarity, **CIRCLE), circle())
    # The pixels that a slanting edge crosses may be open or closed.
    wrong = opened("POLYGONAL", polarity=polarity, **POLYGON) != triangle()
    assert wrong.sum() < 2 * 180


def test_shutters_of_several_shapes_are_all_closed(opened: Open) -> None:
    found = opened("RECTANGULAR", "CIRCULAR", **RECTANGLE, **CIRCLE)
    assert np.array_equal(found, rectangle() & circle())


def test_a_shutter_that_reaches_beyond_the_image_closes_what_is_in_it(opened: Open) -> None:
    found = opened("RECTANGULAR", **{**RECTANGLE, "ShutterLeftVerticalEdge": -5})
    assert found[100, :200].all()
    assert not found[100, 200:].any()


@pytest.mark.parametrize(
    ("shape", "numbers"),
    [
        ("RECTANGULAR", {}),
        ("RECTANGULAR", dict.fromkeys(RECTANGLE, 0)),
        ("RECTANGULAR", {**RECTANGLE, "ShutterLeftVerticalEdge": 200}),
        ("RECTANGULAR", {**RECTANGLE, "ShutterLeftVerticalEdge": 300, "ShutterRightVerticalEdge": 400}),
        ("CIRCULAR", {"CenterOfCircularShutter": [112, 100]}),
        ("CIRCULAR", {**CIRCLE, "RadiusOfCircularShutter": 0}),
        ("CIRCULAR", {**CIRCLE, "CenterOfCircularShutter": [1000, 1000]}),
        ("POLYGONAL", {}),
        ("POLYGONAL", {"VerticesOfThePolygonalShutter": [20, 30, 20, 200]}),
        ("POLYGONAL", {"VerticesOfThePolygonalShutter": [2**31 - 1] * 6}),
        ("BITMAP", {"ShutterPresentationValue": 0}),
        ("ROUND", CIRCLE),
    ],
)
def test_a_shutter_that_makes_no_sense_closes_nothing(
    opened: Open, shape: str, numbers: dict[str, Any]
) -> None:
    assert opened(shape, **numbers).all()


def test_a_shutter_whose_numbers_cannot_be_read_closes_nothing(
    make_dicom: Callable[..., Dataset], dicom_bytes: Callable[..., bytes]
) -> None:
    even = np.full((224, 224), 3000, np.uint16)
    content = dicom_bytes(make_dicom(even, ShutterShape="RECTANGULAR", **RECTANGLE))
    damaged = content.replace(b"IS\x02\x0023", b"IS\x02\x002?")
    assert damaged != content
    assert (decode(content) == 0).any()
    assert (decode(damaged) > 0).all()


def test_a_shutter_closes_a_grey_picture_in_rgb(
    make_dicom: Callable[..., Dataset], dicom_bytes: Callable[..., bytes]
) -> None:
    even = np.full((224, 224, 3), 187, np.uint8)
    dataset = make_dicom(even, bits=8, ShutterShape="RECTANGULAR", **RECTANGLE)
    assert np.array_equal(decode(dicom_bytes(dataset))[:, :, 0] > 0, rectangle())
