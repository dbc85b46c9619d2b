"""The Display Shutter of a DICOM image."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from db.jobs.problems import CorruptImage
from worker.imaging.elements import element, numbers

if TYPE_CHECKING:
    from pydicom import Dataset

Mask = NDArray[np.bool_]

#: Largest number of a row or column (PS3.3 C.7.6.3: Rows and Columns are 16-bit numbers).
_LAST = 2**16


def open_part(dataset: Dataset, rows: int, columns: int) -> Mask | None:
    """Return which pixels the Display Shutter leaves open, (rows, columns); None if it leaves all open.

    Shutters of several shapes are all closed (PS3.3 C.7.6.11). A shutter whose numbers make no sense, or that
    leaves nothing open, is no shutter. BITMAP belongs to presentation states.
    """
    shapes = element(dataset, "ShutterShape") or ()
    opened: Mask | None = None
    for shape in [shapes] if isinstance(shapes, str) else shapes:
        read = _SHAPES.get(str(shape).strip().upper())
        try:
            mask = read(dataset, rows, columns) if read else None
        except CorruptImage:
            continue
        if mask is not None and mask.any():
            opened = mask if opened is None else opened & mask
    return opened if opened is not None and opened.any() else None


def _rectangle(dataset: Dataset, rows: int, columns: int) -> Mask | None:
    edges = [
        numbers(dataset, f"Shutter{name}Edge")
        for name in ("UpperHorizontal", "LowerHorizontal", "LeftVertical", "RightVertical")
    ]
    if not all(edges):
        return None
    upper, lower, left, right = (edge[0] for edge in edges)
    if upper >= lower or left >= right:
        return None
    row, column = _places(rows, columns)
    # The edges themselves are open: the standard leaves a line of one pixel to the software.
    return (row >= upper) & (row <= lower) & (column >= left) & (column <= right)


def _circle(dataset: Dataset, rows: int, columns: int) -> Mask | None:
    centre, radius = numbers(dataset, "CenterOfCircularShutter"), numbers(dataset, "RadiusOfCircularShutter")
    if len(centre) != 2 or not radius or radius[0] <= 0:
        return None
    row, column = _places(rows, columns)
    return np.asarray((row - centre[0]) ** 2 + (column - centre[1]) ** 2 <= radius[0] ** 2)


def _polygon(dataset: Dataset, rows: int, columns: int) -> Mask | None:
    vertices = numbers(dataset, "VerticesOfThePolygonalShutter")
    if len(vertices) < 6 or len(vertices) % 2 or max(map(abs, vertices)) > _LAST:
        return None
    canvas = Image.new("1", (columns, rows))
    # Pairs of row and column, both from 1.
    corners = [(vertices[at + 1] - 1, vertices[at] - 1) for at in range(0, len(vertices), 2)]
    ImageDraw.Draw(canvas).polygon(corners, fill=1, outline=1)
    return np.asarray(canvas)


def _places(rows: int, columns: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the row and the column of each pixel, both from 1."""
    row, column = np.ogrid[1 : rows + 1, 1 : columns + 1]
    return row, column


_SHAPES: dict[str, Callable[[Dataset, int, int], Mask | None]] = {
    "RECTANGULAR": _rectangle,
    "CIRCULAR": _circle,
    "POLYGONAL": _polygon,
}
