"""Pictures of files, decoded in the process of a test."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from worker.decoding.decode import decode_file
from worker.decoding.reader import read_bytes
from worker.files.roots import EVERYWHERE, Roots
from worker.imaging.limits import DEFAULTS, Limits
from worker.imaging.picture import Picture


def decode(content: bytes, limits: Limits = DEFAULTS) -> np.ndarray:
    """Return the pixels of the picture in a file's bytes."""
    return decode_file(content, limits).pixels


def read_picture(where: Path | str, *, limits: Limits = DEFAULTS, roots: Roots = EVERYWHERE) -> Picture:
    """Read and decode a file."""
    content, _ = read_bytes(where, limits, roots)
    decoded = decode_file(content, limits)
    return Picture(pixels=decoded.pixels, digest=hashlib.sha256(content).hexdigest(), facts=decoded.facts)
