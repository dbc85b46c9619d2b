"""What every kind of source gives: what it lists, and what one listed file is."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from db.errors import PneumoscreenError
from db.jobs.images import NewImage
from db.jobs.problems import ImageProblem
from scheduler.ingest.chunks import chunks
from worker.files.opener import Entry

#: Groups of files that each thread has before it while the one that leads waits for the first of them.
_AHEAD = 4


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

    #: Threads that open files at the same time: the answer of a share or a server takes its time.
    threads: int
    #: Files that one thread opens before it hands over what it found.
    at_once: int

    #: Files that were seen and are not images, and so get no row; counts up while walking.
    ignored: int

    #: Folders that this user may not list, and whose images get no row; counts up while walking.
    closed_folders: int

    @property
    @abstractmethod
    def described(self) -> str:
        """Where it is, as a person would give it."""
        ...

    @abstractmethod
    def entries(self) -> Iterator[Entry]:
        """Yield every file once, unopened, in an order that a second walk repeats."""
        ...

    @abstractmethod
    def look(self, entry: Entry) -> NewImage | None:
        """Open a file once and return its image, or None if it is not an image. Several threads may call it.

        Raises ImageProblem if the file cannot be read and its name does not tell that it is an image.
        """
        ...

    def walk(self, entries: Iterable[Entry] | None = None) -> Iterator[NewImage]:
        """Yield the images among these entries, by default among all, in the order of the entries."""
        for image in _look_side_by_side(self, self.entries() if entries is None else entries):
            if image is None:
                self.ignored += 1
            else:
                yield image


def _look_side_by_side(source: Source, entries: Iterable[Entry]) -> Iterator[NewImage | None]:
    """Yield what each entry is, in their order; a few threads look while the caller takes what they found."""
    with ThreadPoolExecutor(source.threads, thread_name_prefix="look") as threads:
        looking: deque[Future[list[NewImage | None]]] = deque()
        try:
            for group in chunks(entries, source.at_once):
                looking.append(threads.submit(_look_at_all, source, group))
                if len(looking) > _AHEAD * source.threads:
                    yield from looking.popleft().result()
            while looking:
                yield from looking.popleft().result()
        except Exception:
            # The source broke off. What it listed before is not lost.
            while looking:
                yield from looking.popleft().result()
            raise
        finally:
            for future in looking:
                future.cancel()


def _look_at_all(source: Source, entries: Iterable[Entry]) -> list[NewImage | None]:
    return [_look_at(source, entry) for entry in entries]


def _look_at(source: Source, entry: Entry) -> NewImage | None:
    try:
        return source.look(entry)
    except ImageProblem:
        return None
