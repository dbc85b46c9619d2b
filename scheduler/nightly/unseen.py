"""What is new in a nightly schedule's source."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import PurePosixPath

from db.engine import Database
from db.jobs.images import NewImage
from db.nights.seen import Stamp, note_seen, seen_uris
from scheduler.ingest.chunks import chunks
from scheduler.ingest.look import is_hidden
from scheduler.ingest.source import Source
from scheduler.submit import LOOKUP
from worker.files.opener import Entry


class Unseen(Source):
    """The files of a source that a schedule has not taken in, or that have changed since."""

    def __init__(self, source: Source, database: Database, schedule: str) -> None:
        self._source, self._database, self._schedule = source, database, schedule
        self.threads, self.at_once = source.threads, source.at_once
        self.ignored = self.closed_folders = 0
        self._no_images: deque[Entry] = deque()

    @property
    def described(self) -> str:
        """Where it is."""
        return self._source.described

    def entries(self) -> Iterator[Entry]:
        """Yield them, by what the source lists and the job table holds: nothing is opened."""
        for chunk in chunks(self._source.entries(), LOOKUP):
            self.remember()
            stamps = {entry.uri: Stamp(entry.size, entry.modified) for entry in chunk}
            with self._database.read() as session:
                seen = seen_uris(session, self._schedule, stamps)
            yield from (entry for entry in chunk if entry.uri not in seen)

    def look(self, entry: Entry) -> NewImage | None:
        """Open a file that is new. Raises FileVanished, FileUnreadable."""
        image = self._source.look(entry)
        # A listing without times would not show that the file has become an image.
        if image is None and entry.modified is not None and not is_hidden(PurePosixPath(entry.uri).name):
            self._no_images.append(entry)
        return image

    def remember(self) -> None:
        """Note the files that were opened and are no images: they are not opened again before they change."""
        stamps = {}
        while self._no_images:
            entry = self._no_images.popleft()
            stamps[entry.uri] = Stamp(entry.size, entry.modified)
        if stamps:
            with self._database.write() as session:
                note_seen(session, self._schedule, stamps)
