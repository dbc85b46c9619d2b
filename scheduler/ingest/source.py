"""The protocol of sources, and the errors that all kinds of them raise."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from functools import cached_property
from typing import Protocol

from db.errors import PneumoscreenError
from db.jobs.images import NewImage
from worker.files.omissions import Omissions
from worker.files.opener import Entry


class SourceMissing(PneumoscreenError):
    """The source does not exist. Check the path, and that this machine mounts it."""

    code = "source-missing"


class SourceUnreadable(PneumoscreenError):
    """The source, or a folder in it, cannot be read. Make it available or readable, and try again."""

    code = "source-unreadable"


class SourceEmpty(PneumoscreenError):
    """The source has no image: no DICOM, JPEG, PNG, TIFF, BMP, JPEG-LS or JPEG 2000 file. Check the path."""

    code = "source-empty"


class SourceUnsupported(PneumoscreenError):
    """The source is neither a folder nor an image file. Give a folder, one image file or a URL."""

    code = "source-unsupported"


class Source(Protocol):
    """A place that images come from."""

    #: Threads that inspect entries at the same time: a network share or a server answers slowly.
    threads: int = 1
    #: Entries that one thread inspects before it hands over what it found.
    group_size: int = 1

    @property
    @abstractmethod
    def described(self) -> str:
        """The path or URL, as a person would give it."""
        ...

    @cached_property
    def omissions(self) -> Omissions:
        """The folders that are not listed, counted while entries are listed. Raises SettingsInvalid."""
        return Omissions.read()

    @abstractmethod
    def entries(self) -> Iterator[Entry]:
        """Yield every file once, without opening it, in an order that a second call repeats."""
        ...

    @abstractmethod
    def inspect(self, entry: Entry) -> NewImage | None:
        """Open a file once and return its image, or None if it is not an image. Several threads may call it.

        Raises ImageProblem if the file cannot be read and its name does not tell that it is an image.
        """
        ...
