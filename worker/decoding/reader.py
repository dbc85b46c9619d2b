"""The reading of an image file within the limits."""

from __future__ import annotations

from pathlib import Path

from worker.files.access import read_file
from worker.files.roots import EVERYWHERE, Roots
from worker.imaging.limits import DEFAULTS, Limits


def read_bytes(
    where: Path | str, limits: Limits = DEFAULTS, roots: Roots = EVERYWHERE
) -> tuple[bytes, float | None]:
    """Return a file's bytes, by its path or URI, and when it was last modified; None if that is not known.

    Raises FileTooLarge, OutsideRoots, FileVanished, FileUnreadable. Several threads may read at once.
    """
    content = read_file(str(where), limit=limits.max_file_bytes, roots=roots)
    return content.data, content.modified
