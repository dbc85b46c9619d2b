"""Near duplicates: one radiograph in two files, compressed, scaled or windowed a little differently."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: Pixels on a side of the thumbnails that are compared.
_SIDE = 16

#: Two thumbnails that correlate more than this show one radiograph. In the thesis' data no two different
#: patients reach 0.985, and a copy at another size or JPEG quality stays above 0.999.
NEAR = 0.985

#: Thumbnails compared at a time with all others: 4,096 x 10^5 correlations take 1.6 GB.
_BLOCK = 4096


def thumbnails(pixels: NDArray[np.uint8], side: int = _SIDE) -> NDArray[np.float32]:
    """Return pictures (N, H, W, 3) as grey thumbnails, float32 (N, side * side) in [0, 1]."""
    small = np.empty((len(pixels), side, side), dtype=np.float32)
    for index, picture in enumerate(pixels):
        grey = Image.fromarray(picture).convert("L")
        small[index] = np.asarray(grey.resize((side, side), Image.Resampling.BOX))
    return small.reshape(len(pixels), side * side) / np.float32(255)


def near_duplicates(pixels: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """Return pairs of indices into pictures (N, H, W, 3) that show one radiograph, exact copies included.

    Every pair is compared: 10^4 pictures take seconds, 10^5 minutes.
    """
    found = thumbnails(pixels)
    found -= found.mean(axis=1, keepdims=True)
    # A picture of one shade correlates with nothing.
    found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-6)
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(found), _BLOCK):
        block = found[start : start + _BLOCK]
        for row, column in np.argwhere(block @ found[start:].T > NEAR):
            if column > row:
                pairs.append((start + int(row), start + int(column)))
    return pairs
