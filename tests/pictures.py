"""Pictures of files, decoded in the process of a test, and small files that the gate passes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import PIL.Image

from worker.decoding.decode import decode_file
from worker.decoding.reader import read_bytes
from worker.files.roots import EVERYWHERE, Roots
from worker.imaging.limits import DEFAULTS, Limits
from worker.imaging.picture import Picture
from worker.phantoms import draw_phantom


def decode(content: bytes, limits: Limits = DEFAULTS) -> np.ndarray:
    """Return the pixels of the picture in a file's bytes."""
    return decode_file(content, limits).pixels


def read_picture(where: Path | str, *, limits: Limits = DEFAULTS, roots: Roots = EVERYWHERE) -> Picture:
    """Read and decode a file."""
    content, _ = read_bytes(where, limits, roots)
    decoded = decode_file(content, limits)
    return Picture(pixels=decoded.pixels, digest=hashlib.sha256(content).hexdigest(), facts=decoded.facts)


def small_film(seed: int, side: int = 96) -> PIL.Image.Image:
    """Draw a small phantom, another one for each seed."""
    return PIL.Image.fromarray(np.round(draw_phantom(seed, (side, side)) * 255).astype(np.uint8))


def save_film(path: Path, seed: int = 0) -> Path:
    """Write a small phantom as PNG."""
    small_film(seed).save(path, "PNG", compress_level=1)
    return path
