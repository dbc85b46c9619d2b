"""RGB images of DICOM that are grey."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from db.jobs.problems import ColourImage

#: A pixel has colour where its channels are further apart than this, of the full range. Grey through
#: JPEG's or JPEG 2000's colour transform comes back within 2/255, by rounding; a visible tint is more.
_TINT = 8 / 255

#: A grey image may have this share of coloured pixels: a side marker or a line of text in colour.
_COLOURED_SHARE = 0.01


def grey_of_rgb(rgb: NDArray[np.generic], bits: int) -> NDArray[np.float32]:
    """Return the grey of an RGB image (rows, columns, 3) whose channels are equal, as float32 in [0, 1].

    Raises ColourImage where more than a hundredth of the pixels have a colour.
    """
    white = 2**bits - 1
    # No window and no polarity: they are for MONOCHROME1 and 2 alone (PS3.3 C.11.2 and C.7.6.3.1.2).
    spread = rgb.max(axis=2).astype(np.int64) - rgb.min(axis=2).astype(np.int64)
    if np.count_nonzero(spread > _TINT * white) > _COLOURED_SHARE * spread.size:
        raise ColourImage
    grey = rgb.mean(axis=2, dtype=np.float32) / np.float32(white)
    return np.asarray(grey, dtype=np.float32)
