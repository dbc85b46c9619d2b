"""What every kind of source gives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from db.errors import PneumoscreenError
from db.images import NewImage


class SourceMissing(PneumoscreenError):
    """The source does not exist. Check the path, and that this machine mounts it."""

    code = "source-missing"


class SourceUnreadable(PneumoscreenError):
    """The source, or a folder in it, cannot be read. Bring it back, or let this user read it; do it again."""

    code = "source-unreadable"


class SourceEmpty(PneumoscreenError):
    """The source holds no image: no JPEG, PNG, TIFF, BMP or DICOM file at any depth. Check the path."""

    code = "source-empty"


class SourceUnsupported(PneumoscreenError):
    """The source is neither a folder nor an image file. Give a folder, one image file or a URL."""

    code = "source-unsupported"


class Source(Protocol):
    """A place that images come from."""

    @property
    def described(self) -> str:
        """Where it is, as a person would give it."""
        ...

    #: Files that were seen and are not images, and so get no row; counts up while walking.
    ignored: int

    #: Folders that this user may not list, and whose images get no row; counts up while walking.
    closed_folders: int

    def walk(self) -> Iterator[NewImage]:
        """Yield every image once, in an order that a second walk repeats."""
        ...
