"""JPEG, PNG, TIFF and BMP files."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worker.imaging.picture import rgb_pixels, squeeze


def decode_raster(content: bytes) -> NDArray[np.uint8]:
    """Return the picture in a raster file as uint8 (224, 224, 3)."""
    image = Image.open(BytesIO(content), formats=("JPEG", "PNG", "TIFF", "BMP"))
    if image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    return rgb_pixels(squeeze(image))
