"""Files of any supported kind."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from worker.imaging.picture import Picture
from worker.imaging.raster import decode_raster


@dataclass(frozen=True)
class Limits:
    max_file_bytes: int = 512 * 1024 * 1024
    max_pixels: int = 100_000_000


def read_picture(path: Path, *, limits: Limits = Limits()) -> Picture:
    """Read one image file."""
    content = path.read_bytes()
    return Picture(pixels=decode_raster(content), digest=hashlib.sha256(content).hexdigest())
