"""The grey values of DICOM images that are stored as RGB."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from db.jobs.problems import ColourImage

#: A pixel is coloured if its channels differ by more than this share of the full range. After the colour
#: transform of JPEG or JPEG 2000, rounding makes the channels of grey differ by up to 2/255. A visible tint
#: is more.
_TINT = 8 / 255

#: A grey image may have this share of coloured pixels: a side marker or a line of text in colour.
_COLOURED_SHARE = 0.01


def grey_of_rgb(rgb: NDArray[np.generic], bits: int) -> NDArray[np.float32]:
    """Return the grey of an RGB image (rows, columns, 3) with about equal channels, as float32 in [0, 1].

    Raises ColourImage if more than a hundredth of the pixels are coloured.
    """
    white = 2**bits - 1
    # No window and no polarity: they apply to MONOCHROME1 and 2 only (PS3.3 C.11.2 and C.7.6.3.1.2).
    spread = rgb.max(axis=2).astype(np.int64) - rgb.min(axis=2).astype(np.int64)
    if np.count_nonzero(spread > _TINT * white) > _COLOURED_SHARE * spread.size:
        raise ColourImage
    grey = rgb.mean(axis=2, dtype=np.float32) / np.float32(white)
    return np.asarray(grey, dtype=np.float32)
