"""The picture that a model sees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: Pixels on a side, as in the thesis (chapter on data preparation) and ImageNet.
SIDE = 224

#: Names what happens between a file and a picture. Stored with every prediction and every model:
#: change it whenever the pixels of any picture change.
PREPROCESSING = "squeeze-bilinear-224/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A radiograph, ready for a model."""

    #: uint8, (224, 224, 3), RGB with three equal channels for greyscale; 0 is black.
    pixels: NDArray[np.uint8]
    #: SHA-256 of the file's bytes, hexadecimal.
    digest: str


def squeeze(image: Image.Image) -> Image.Image:
    """Resize to 224x224, giving up the aspect ratio, with Pillow's antialiased bilinear filter.

    The same as fastai's `Resize(224, method="squish")`. The filter works on each channel by itself,
    so resizing greyscale and then repeating the channel equals resizing RGB, in a third of the time.
    """
    if image.size == (SIDE, SIDE):
        return image
    return image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)


def rgb_pixels(image: Image.Image) -> NDArray[np.uint8]:
    """Return an 8-bit greyscale or RGB image as a uint8 array of shape (height, width, 3)."""
    return np.array(image.convert("RGB"))
