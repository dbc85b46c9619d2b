"""The source of images behind a URL: a folder of any depth, or one file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from io import BytesIO

from db.errors import PneumoscreenError
from db.jobs.images import NewImage
from db.jobs.problems import CorruptImage, EmptyFile, OutsideRoots
from scheduler.ingest.dicom import Identity, read_identity
from scheduler.ingest.recognition import (
    RASTER_SUFFIXES,
    START_BYTES,
    is_expected,
    is_probably_dicom,
    recognise,
    suffix_of,
)
from scheduler.ingest.source import Source, SourceMissing, SourceUnreadable
from worker.files.access import find_opener, list_files, read_start
from worker.files.dicom_header import HEAD_BYTES
from worker.files.opener import Entry
from worker.files.roots import EVERYWHERE, Roots, SourceOutsideRoots
from worker.files.url import check_url, is_local, name_of

#: Bytes that hold the identifiers of nearly every DICOM file, and what comes before its header.
_HEAD_BYTES = HEAD_BYTES + (1 << 16)

#: Bytes that hold them if a large element comes first. Each thread may hold as many.
_LONG_HEAD_BYTES = 16 << 20


def accepts(where: str) -> bool:
    """Whether a name is a URL."""
    return not is_local(where)


def open_source(where: str, roots: Roots) -> Source:
    """Return the source that a URL names. Raises the errors of RemoteSource."""
    return RemoteSource(where, roots)


class RemoteSource(Source):
    """The images below a URL, or the one image that it names."""

    def __init__(self, url: str, roots: Roots = EVERYWHERE) -> None:
        """Raise RemoteUrlInvalid, SourceOutsideRoots or RemoteUnsupported."""
        check_url(url)
        try:
            roots.check_url(url)
        except OutsideRoots:
            raise SourceOutsideRoots from None
        self._url, self._roots = url, roots
        self.threads = find_opener(url).threads

    @property
    def described(self) -> str:
        """The URL."""
        return self._url

    def entries(self) -> Iterator[Entry]:
        """Yield the files folder by folder, in the order of their names.

        Raises SourceMissing, SourceUnreadable, SourceOutsideRoots.
        """
        if is_expected(name_of(self._url)):
            yield Entry(self._url)
            return
        try:
            yield from list_files(self._url, self.omissions, roots=self._roots)
        except (FileNotFoundError, NotADirectoryError):
            raise SourceMissing from None
        except OutsideRoots:
            raise SourceOutsideRoots from None
        except PneumoscreenError:
            raise
        except Exception as error:
            # Each protocol's library has its own errors. Their texts may hold a URL or a name.
            raise SourceUnreadable(type(error).__name__) from None

    def inspect(self, entry: Entry) -> NewImage | None:
        """Return the file's image, with the size and the time of the listing.

        Raises FileVanished, FileUnreadable.
        """
        name = name_of(entry.uri)
        fetch = partial(read_start, entry.uri, roots=self._roots)
        # Fetched once, by the first of the two functions that needs it.
        head = cache(partial(fetch, _HEAD_BYTES))
        image = recognise(
            name, entry.uri, partial(_start, name, entry.size, fetch, head), partial(_identity, fetch, head)
        )
        return image and replace(image, size=entry.size, listed_at=entry.modified)


def _start(name: str, size: int | None, fetch: Callable[[int], bytes], head: Callable[[], bytes]) -> bytes:
    """Return the bytes that show whether a file is DICOM or a raster.

    A raster image is not fetched, because its name is enough. A file that is probably DICOM is fetched once,
    with its header. Raises EmptyFile, OutsideRoots, FileVanished, FileUnreadable.
    """
    if size is None or size:
        if suffix_of(name) in RASTER_SUFFIXES:
            return b""
        if start := head()[:START_BYTES] if is_probably_dicom(name) else fetch(START_BYTES):
            return start
    raise EmptyFile


class _Head(BytesIO):
    """The beginning of a file, which notes whether more bytes were asked for than it has."""

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
