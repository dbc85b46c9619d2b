"""The picture that a model sees. If any pixel changes, `db.models.card` gets a new version."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: Pixels on a side, as in the thesis (chapter on data preparation) and ImageNet.
SIDE = 224


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderFacts:
    """The elements of a DICOM header that a worker uses. The decoding process cuts long values off."""

    #: SOP Instance UID (0008,0018), None if it is missing.
    instance_uid: str | None
    #: Body Part Examined (0018,0015) and View Position (0018,5101) in upper case, empty if they are missing.
    body_part: str
    view_position: str
    #: Modality (0008,0060) and Manufacturer (0008,0070) in upper case, empty if they are missing.
    modality: str
    manufacturer: str
    #: The patient's age in years, as `4.5`; empty if it is unknown.
    age: str
    #: Rows (0028,0010) and Columns (0028,0011), as `2048x2500`.
    size: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A radiograph, ready for a model."""

    #: uint8, (224, 224, 3), RGB with three equal channels for greyscale; 0 is black.
    pixels: NDArray[np.uint8]
    #: SHA-256 of the file's bytes, hexadecimal.
    digest: str
    #: Facts of the DICOM header, None for other files.
    facts: HeaderFacts | None


def squeeze(image: Image.Image) -> NDArray[np.uint8]:
    """Return an 8-bit greyscale (L) or RGB image as a picture's pixels, uint8 (224, 224, 3).

    The aspect ratio is not kept. The filter is Pillow's antialiased bilinear filter, the same as in fastai's
    `Resize(224, method="squish")`. The filter works on each channel by itself, so resizing greyscale
    and then repeating the channel equals resizing RGB, in a third of the time.
    """
    if image.size != (SIDE, SIDE):
        image = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.array(image.convert("RGB"))


def squeeze_grey(grey: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return greyscale of any depth as a picture's pixels: float32 (height, width) in [0, 1], 0 is black.

    The filter runs in single precision, and rounding to 8 bits comes last, once.
    """
    small = Image.fromarray(grey).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    rounded = np.rint(np.clip(np.asarray(small), 0, 1) * 255).astype(np.uint8)
    return np.repeat(rounded[:, :, None], 3, axis=2)
