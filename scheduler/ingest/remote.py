"""Folders and files behind a URL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from io import BytesIO
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from db.errors import PneumoscreenError
from db.jobs.images import NewImage
from db.jobs.problems import CorruptImage, EmptyFile, OutsideRoots
from scheduler.ingest.dicom import Identity, read_identity
from scheduler.ingest.look import DICOM_SUFFIXES, RASTER_SUFFIXES, START_BYTES, is_expected, look, suffix_of
from scheduler.ingest.source import Source, SourceMissing, SourceUnreadable
from worker.files.access import find_opener, list_files, read_start
from worker.files.dicom_header import HEAD_BYTES
from worker.files.opener import Entry
from worker.files.roots import EVERYWHERE, Roots, SourceOutsideRoots
from worker.files.url import check_url

#: Bytes that hold the identifiers of nearly every DICOM file, and what comes before its header.
_HEAD_BYTES = HEAD_BYTES + (1 << 16)

#: Bytes that hold them where something large comes first. As many times this is held as files are looked at.
_LONG_HEAD_BYTES = 16 << 20


class RemoteSource(Source):
    """The images below a URL, or the one image that it names."""

    at_once = 1

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
        self.threads = find_opener(url).threads

    @property
    def described(self) -> str:
        """The URL."""
        return self._url

    def entries(self) -> Iterator[Entry]:
        """Yield the files folder by folder, in the order of their names.

        Raises SourceMissing, SourceUnreadable, SourceOutsideRoots.
        """
        yield from self._files()

    def look(self, entry: Entry) -> NewImage | None:
        """Return the file's image, with the size and the time that the listing gave.

        Raises FileVanished, FileUnreadable.
        """
        name = _name(entry.uri)
        fetch = partial(read_start, entry.uri, roots=self._roots)
        # Fetched once, by whoever wants it first.
        head = cache(partial(fetch, _HEAD_BYTES))
        image = look(
            name, entry.uri, partial(_start, name, entry.size, fetch, head), partial(_identity, fetch, head)
        )
        return image and replace(image, size=entry.size, listed_at=entry.modified)

    def _files(self) -> Iterator[Entry]:
        """Yield what is there. Raises SourceMissing, SourceUnreadable, SourceOutsideRoots."""
        if is_expected(_name(self._url)):
            yield Entry(self._url, None)
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


def _start(name: str, size: int | None, fetch: Callable[[int], bytes], head: Callable[[], bytes]) -> bytes:
    """Return the bytes that tell a DICOM file; a raster's name is enough, which saves a request for each.

    Raises EmptyFile, OutsideRoots, FileVanished, FileUnreadable.
    """
    suffix = suffix_of(name)
    if size is None or size:
        if suffix in RASTER_SUFFIXES:
            return b""
        if start := head()[:START_BYTES] if suffix in DICOM_SUFFIXES else fetch(START_BYTES):
            return start
    raise EmptyFile


class _Head(BytesIO):
    """The beginning of a file, which notes whether more was asked for than there is of it."""

    is_short = False

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size)
        self.is_short = self.is_short or size is None or len(content) < size
        return content


def _identity(fetch: Callable[[int], bytes], head: Callable[[], bytes]) -> Identity:
    """Read a DICOM file's identifiers.

    Raises OutsideRoots, FileVanished, FileUnreadable, CorruptImage.
    """
    content = _Head(head())
    is_whole = len(head()) < _HEAD_BYTES
    try:
        identity = read_identity(content)
    except CorruptImage:
        if is_whole or not content.is_short:
            raise
    else:
        if is_whole or not content.is_short:
            return identity
    return read_identity(BytesIO(fetch(_LONG_HEAD_BYTES)))


def _name(url: str) -> str:
    parts = urlsplit(url)
    return unquote(PurePosixPath(parts.path).name) or parts.hostname or "root"
