"""Compressed frames that are decoded like the frames of DICOM images."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from db.jobs.problems import CorruptImage, UnsupportedPixels
from worker.imaging.picture import squeeze
from worker.imaging.pixels.codestream import Codestream
from worker.imaging.pixels.decoders import decode_pixels
from worker.imaging.pixels.layout import Layout
from worker.imaging.rasters.grey import squeeze_values

if TYPE_CHECKING:
    from pydicom.uid import UID


def read_frame(frame: bytes, found: Codestream, syntax: UID) -> NDArray[np.uint8]:
    """Return the picture in a greyscale or RGB frame, uint8 (224, 224, 3).

    `found` is the frame's own header, whose size the caller has checked. The decoders are those of DICOM's
    transfer syntaxes. Raises UnsupportedPixels, CorruptImage, NoDecoder.
    """
    if found.precision > 16:
        raise UnsupportedPixels(f"{found.process}, {found.precision} bits")
    values = _decode(frame, found, syntax)
    if values.ndim == 3:
        high = values.astype(np.uint16) >> max(found.precision - 8, 0)
        return squeeze(Image.fromarray(high.astype(np.uint8)))
    if found.signed:
        # The least value is black.
        values = values.astype(np.int32) + 2 ** (found.precision - 1)
    return squeeze_values(values.astype(np.uint16), found.precision)


def _decode(frame: bytes, found: Codestream, syntax: UID) -> NDArray[np.generic]:
    """Return the samples, (height, width) or (height, width, 3)."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.encaps import encapsulate

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    dataset = FileDataset(BytesIO(), {}, file_meta=meta)
    dataset.PixelData = encapsulate([frame])
    size = (found.height, found.width)
    layout = Layout(
        rows=found.height,
        columns=found.width,
        samples=found.components,
        photometric="MONOCHROME2" if found.components == 1 else "RGB",
        planar=0,
        allocated=8 if found.precision <= 8 else 16,
        bits=found.precision,
        high_bit=found.precision - 1,
        signed=found.signed,
    )
    values, _ = decode_pixels(dataset, layout)
    if values.shape != (size if found.components == 1 else (*size, found.components)):
        raise CorruptImage("size")
    return values
