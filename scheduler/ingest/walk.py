"""The walk through a source: list its files, leave out those that are known, and inspect the others."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import reduce
from typing import Protocol

from db.jobs.images import NewImage
from db.jobs.problems import ImageProblem
from scheduler.ingest.chunks import chunks
from scheduler.ingest.left_out import IgnoredFiles, LeftOut
from scheduler.ingest.source import Source
from worker.files.opener import Entry
from worker.files.url import name_of

#: Files that are compared with what is known at a time.
_COMPARED = 1000

#: Groups of entries that wait for each thread while the walk waits for the first of them.
_AHEAD = 4

#: What an inspection found: an image, no image, or the problem that prevents an answer.
Finding = NewImage | ImageProblem | None


class Known(Protocol):
    """What is known about the files of a source from earlier walks."""

    def unknown(self, entries: list[Entry]) -> list[Entry]:
        """Return those entries that are to be inspected, in their order."""
        ...

    def note_no_image(self, entry: Entry) -> None:
        """Take note that an inspected entry is no image."""
        ...


class Walk:
    """One walk through a source; it yields the images that are unknown, in the order of the listing."""

    def __init__(self, source: Source, *known: Known) -> None:
        """Leave out what any of `known` knows; the first is asked first."""
        self._source, self._known = source, known
        self._ignored = IgnoredFiles()

    def __iter__(self) -> Iterator[NewImage]:
        """Yield the images. Raises the errors of the source's `entries`."""
        for entry, found in _inspect_all(self._source, self._unknown()):
            if isinstance(found, NewImage):
                yield found
                continue
            self._ignored.add(name_of(entry.uri), readable=found is None)
            if found is None:
                for known in self._known:
                    known.note_no_image(entry)

    @property
    def left_out(self) -> LeftOut:
        """Inspected files that are no images, and so get no row, and what was not listed, until now."""
        omissions = self._source.omissions
        return LeftOut(
            ignored=self._ignored.total,
            ignored_kinds=dict(self._ignored.kinds),
            links_to_folders=omissions.links,
            skipped_folders=dict(omissions.folders),
            closed_folders=omissions.closed,
        )

    def _unknown(self) -> Iterator[Entry]:
        for entries in chunks(self._source.entries(), _COMPARED):
            yield from reduce(lambda unknown, known: known.unknown(unknown), self._known, entries)


def _inspect_all(source: Source, entries: Iterable[Entry]) -> Iterator[tuple[Entry, Finding]]:
    """Yield what each entry is, in their order; threads inspect the next ones meanwhile."""
    with ThreadPoolExecutor(source.threads, thread_name_prefix="inspect") as threads:
        inspected: deque[Future[list[tuple[Entry, Finding]]]] = deque()
        try:
            for group in chunks(entries, source.group_size):
                inspected.append(threads.submit(_inspect_group, source, group))
                if len(inspected) > _AHEAD * source.threads:
                    yield from inspected.popleft().result()
            while inspected:
                yield from inspected.popleft().result()
        except Exception:
            # The listing failed. What it listed before is not lost.
            while inspected:
                yield from inspected.popleft().result()
            raise
        finally:
            for future in inspected:
                future.cancel()


def _inspect_group(source: Source, entries: list[Entry]) -> list[tuple[Entry, Finding]]:
    return [(entry, _inspect(source, entry)) for entry in entries]


def _inspect(source: Source, entry: Entry) -> Finding:
    try:
        return source.inspect(entry)
    except ImageProblem as problem:
        return problem
