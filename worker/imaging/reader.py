"""Files of any supported kind."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from db.jobs.problems import EmptyFile, FileTooLarge, FileUnreadable
from worker.files.remote import read_file, read_up_to
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
    """Return a file's bytes, by its path or URL, and when it was last modified, where that is known.

    Raises FileTooLarge, OutsideRoots, FileVanished, FileUnreadable. Several threads may read at once.
    """
    if isinstance(where, str):
        return read_file(where, limit=limits.max_file_bytes, roots=roots), None
    return _read(where, limits, roots)


def decode(content: bytes, limits: Limits = _DEFAULTS) -> NDArray[np.uint8]:
    """Return the picture in a file's bytes as uint8 (224, 224, 3); what kind it is, the bytes say.

    Raises ImageProblem for whatever they may be.
    """
    if not content:
        raise EmptyFile
    if is_dicom(content):
        return decode_dicom(content, limits)
    return decode_raster(content, limits)


def _read(path: Path, limits: Limits, roots: Roots) -> tuple[bytes, float]:
    """Return a file's bytes, and when it was last modified.

    Raises FileTooLarge, OutsideRoots, FileVanished, FileUnreadable.
    """
    with roots.open_file(path) as file:
        status = os.fstat(file.fileno())
        if status.st_size > limits.max_file_bytes:
            raise FileTooLarge
        try:
            # It may grow while it is read.
            content = read_up_to(file, limits.max_file_bytes + 1)
        except OSError:
            raise FileUnreadable from None
    if len(content) > limits.max_file_bytes:
        raise FileTooLarge
    return content, status.st_mtime
