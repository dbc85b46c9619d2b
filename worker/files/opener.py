"""The protocol of openers, and what they return."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO, Protocol

from worker.files.omissions import Omissions
from worker.files.roots import Roots

_PART_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """A file that a listing names, before it is opened."""

    uri: str
    #: Bytes, and the time of the last change in seconds since 1970; None if the listing does not say.
    size: int | None = None
    modified: float | None = None


@dataclass(frozen=True, slots=True)
class Content:
    """The bytes of a file."""

    data: bytes
    #: Time of the last change in seconds since 1970; None if the server does not say.
    modified: float | None = None


class Opener(Protocol):
    """Access to the files of one URL scheme.

    Every method is safe to call from several threads. None of them reads or requests anything that lies
    outside the roots, even if a link or a redirect leads there.
    """

    #: Threads that may read at the same time.
    threads: int

    def check(self, url: str, roots: Roots) -> None:
        """Raise OutsideRoots if a URL lies outside the roots. No server is asked."""
        ...

    def read_file(self, url: str, limit: int, roots: Roots) -> Content:
        """Return a file's bytes.

        Raises FileTooLarge for more than `limit` bytes, OutsideRoots, FileVanished, FileUnreadable.
        """
        ...

    def read_start(self, url: str, size: int, roots: Roots) -> bytes:
        """Return at most the first `size` bytes. Raises OutsideRoots, FileVanished, FileUnreadable."""
        ...

    def list_files(self, url: str, roots: Roots, omissions: Omissions) -> Iterator[Entry]:
        """Yield the files below a folder, in an order that a second listing repeats.

        `omissions` says which folders below are not walked, and counts what is left out. Raises OutsideRoots,
        OSError and the errors of the scheme's library.
        """
        ...

    def is_available(self, url: str, roots: Roots) -> bool:
        """Whether a folder or file is there.

        Outside the roots, nothing is checked and the answer is True: waiting would not help.
        """
        ...


def read_up_to(file: BinaryIO, size: int) -> bytes:
    """Return the first bytes of a stream, however few it returns at a time."""
    content = BytesIO()
    while (missing := size - content.tell()) > 0 and (part := file.read(min(missing, _PART_BYTES))):
        content.write(part)
    return content.getvalue()
