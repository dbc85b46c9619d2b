"""Files of any supported kind."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from db.jobs.problems import EmptyFile
from worker.files.access import read_file
from worker.files.roots import EVERYWHERE, Roots
from worker.imaging.dicom import decode_dicom, is_dicom
from worker.imaging.limits import Limits
from worker.imaging.picture import Picture
from worker.imaging.raster import decode_raster

_DEFAULTS = Limits()


def read_picture(where: Path | str, *, limits: Limits = _DEFAULTS, roots: Roots = EVERYWHERE) -> Picture:
    """Read one image file of one's own here and now; `worker.decoding.pool` is for files of others.

    Raises ImageProblem for whatever the file may be.
    """
    content, _ = read_bytes(where, limits, roots)
    return Picture(pixels=decode(content, limits), digest=hashlib.sha256(content).hexdigest())


def read_bytes(
    where: Path | str, limits: Limits = _DEFAULTS, roots: Roots = EVERYWHERE
) -> tuple[bytes, float | None]:
    """Return a file's bytes, by its path or URI, and when it was last modified; None if that is not known.

    Raises FileTooLarge, OutsideRoots, FileVanished, FileUnreadable. Several threads may read at once.
    """
    content = read_file(str(where), limit=limits.max_file_bytes, roots=roots)
    return content.data, content.modified


def decode(content: bytes, limits: Limits = _DEFAULTS) -> NDArray[np.uint8]:
    """Return the picture in a file's bytes as uint8 (224, 224, 3); what kind it is, the bytes say.

    Raises ImageProblem for whatever they may be.
    """
    if not content:
        raise EmptyFile
    if is_dicom(content):
        return decode_dicom(content, limits)
    return decode_raster(content, limits)
