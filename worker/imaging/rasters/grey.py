"""The scale of greyscale in raster files."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worker.imaging.depth import bits_in_use
from worker.imaging.picture import squeeze, squeeze_grey


def squeeze_values(
    values: NDArray[np.unsignedinteger], bits: int, *, white_is_zero: bool = False
) -> NDArray[np.uint8]:
    """Return greyscale values (height, width) of a number of bits as a picture's pixels, uint8 (224, 224, 3).

    8 bits are shown as they are. 16 bits may hold fewer (`bits_in_use`).
    """
    if bits == 8:
        shown = values.astype(np.uint8)
        return squeeze(Image.fromarray(255 - shown if white_is_zero else shown))
    white = 2 ** bits_in_use(int(values.max()), bits) - 1
    grey = values.astype(np.float32) / np.float32(white)
    return squeeze_grey(1 - grey if white_is_zero else grey)
