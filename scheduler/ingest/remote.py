"""Folders and files behind a URL."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from db.errors import PneumoscreenError
from db.images import NewImage
from db.problems import CorruptImage, EmptyFile, OutsideRoots
from db.remote import RemoteFile, check_url, list_files, read_start
from db.roots import EVERYWHERE, Roots, SourceOutsideRoots
from scheduler.ingest.dicom import Identity, read_identity
from scheduler.ingest.look import DICOM_SUFFIXES, RASTER_SUFFIXES, START_BYTES, look
from scheduler.ingest.source import SourceMissing, SourceUnreadable
from worker.dicom_header import HEAD_BYTES

#: Files that are looked at side by side: the answer of a distant server takes its time. An SSH server takes
#: few connections at once (OpenSSH's MaxStartups).
_SIDE_BY_SIDE, _SIDE_BY_SIDE_SFTP = 16, 4

#: Bytes that hold the identifiers of nearly every DICOM file, and what comes before its header.
_HEAD_BYTES = HEAD_BYTES + (1 << 16)

#: Bytes that hold them where something large comes first. As many times this is held as files are looked at.
_LONG_HEAD_BYTES = 16 << 20


class RemoteSource:
    """The images below a URL, or the one image that it names."""

    def __init__(self, url: str, roots: Roots = EVERYWHERE) -> None:
        """Raise RemoteUrlInvalid where the URL cannot be used, SourceOutsideRoots where it may not."""
        check_url(url)
        try:
            roots.check_url(url)
        except OutsideRoots:
            raise SourceOutsideRoots from None
        self._roots = roots
        self.ignored = self.closed_folders = 0
        self._url = url

    @property
    def described(self) -> str:
        """The URL."""
        return self._url

    def walk(self) -> Iterator[NewImage]:
        """Yield the images folder by folder, in the order of their names."""
        side_by_side = _SIDE_BY_SIDE_SFTP if self._url.startswith("sftp:") else _SIDE_BY_SIDE
        with ThreadPoolExecutor(side_by_side, thread_name_prefix="look") as threads:
            looking: deque[Future[NewImage | None]] = deque()
            try:
                for file in self._files():
                    looking.append(threads.submit(_look, file, self._roots))
                    if len(looking) > 4 * side_by_side:
                        yield from self._kept([looking.popleft()])
                yield from self._kept(looking)
            finally:
                for future in looking:
                    future.cancel()

    def _kept(self, looking: Iterable[Future[NewImage | None]]) -> Iterator[NewImage]:
        for future in looking:
            image = future.result()
            if image is None:
                self.ignored += 1
            else:
                yield image

    def _files(self) -> Iterator[RemoteFile]:
        """Yield what is there. Raises SourceMissing, SourceUnreadable, SourceOutsideRoots."""
        if PurePosixPath(_name(self._url)).suffix.lower() in RASTER_SUFFIXES | DICOM_SUFFIXES:
            yield RemoteFile(self._url, None)
            return
        try:
            yield from list_files(self._url, roots=self._roots)
        except (FileNotFoundError, NotADirectoryError):
            raise SourceMissing from None
        except OutsideRoots:
            raise SourceOutsideRoots from None
        except PneumoscreenError:
            raise
        except Exception as error:
            # Each protocol's library has errors of its own; their texts may tell what they should not.
            raise SourceUnreadable(type(error).__name__) from None


def _look(file: RemoteFile, roots: Roots) -> NewImage | None:
    start, identity = partial(_start, file, roots), partial(_identity, file, roots)
    image = look(_name(file.url), file.url, start, identity)
    return image and replace(image, size=file.size)


def _start(file: RemoteFile, roots: Roots) -> bytes:
    """Return the bytes that tell a DICOM file; a raster's name is enough, which saves a request for each.

    Raises EmptyFile, OutsideRoots, FileVanished, FileUnreadable.
    """
    if file.size is None or file.size:
        if PurePosixPath(_name(file.url)).suffix.lower() in RASTER_SUFFIXES:
            return b""
        if start := read_start(file.url, START_BYTES, roots=roots):
            return start
    raise EmptyFile


class _Head(BytesIO):
    """The beginning of a file, which notes whether more was asked for than there is of it."""

    is_short = False

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size)
        self.is_short = self.is_short or size is None or len(content) < size
        return content


def _identity(file: RemoteFile, roots: Roots) -> Identity:
    """Read a DICOM file's identifiers.

    Raises OutsideRoots, FileVanished, FileUnreadable, CorruptImage.
    """
    content = read_start(file.url, _HEAD_BYTES, roots=roots)
    head = _Head(content)
    is_whole = len(content) < _HEAD_BYTES
    try:
        identity = read_identity(head)
    except CorruptImage:
        if is_whole or not head.is_short:
            raise
    else:
        if is_whole or not head.is_short:
            return identity
    return read_identity(BytesIO(read_start(file.url, _LONG_HEAD_BYTES, roots=roots)))


def _name(url: str) -> str:
    parts = urlsplit(url)
    return unquote(PurePosixPath(parts.path).name) or parts.hostname or "root"
