"""The limits of one image."""

from __future__ import annotations

from dataclasses import dataclass

from db.jobs.problems import TooFewPixels, TooManyPixels

#: Sides shorter than this hold a thumbnail, not a chest.
SHORTEST_SIDE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The size above which an image is refused, before it takes time or memory."""

    #: Largest file in bytes: ten times what the largest detectors write.
    max_file_bytes: int = 512 * 1024 * 1024
    #: Largest width times height: five times the largest detectors.
    max_pixels: int = 100_000_000

    def check(self, width: int, height: int) -> None:
        """Raise TooManyPixels or TooFewPixels for a size that a header gives, before it is decoded."""
        if width * height > self.max_pixels:
            raise TooManyPixels
        if min(width, height) < SHORTEST_SIDE:
            raise TooFewPixels


DEFAULTS = Limits()
