"""Files that a nightly schedule knows from earlier nights."""

from __future__ import annotations

from pathlib import PurePosixPath

from db.engine import Database
from db.nights.seen import Stamp, note_seen, seen_uris
from scheduler.ingest.recognition import is_hidden
from worker.files.opener import Entry


class KnownFiles:
    """Files that a schedule has taken in or found to be no images, and that have not changed since."""

    def __init__(self, database: Database, schedule: str) -> None:
        self._database, self._schedule = database, schedule
        self._no_images: dict[str, Stamp] = {}

    def unknown(self, entries: list[Entry]) -> list[Entry]:
        """Return the entries that are new or have changed, by the listing alone: nothing is opened."""
        self.save()
        stamps = {entry.uri: Stamp(entry.size, entry.modified) for entry in entries}
        with self._database.read() as session:
            seen = seen_uris(session, self._schedule, stamps)
        return [entry for entry in entries if entry.uri not in seen]

    def note_no_image(self, entry: Entry) -> None:
        """Remember a file that is no image, so that it is not opened again before it changes."""
        # A listing without times would not show that the file has become an image.
        if entry.modified is not None and not is_hidden(PurePosixPath(entry.uri).name):
            self._no_images[entry.uri] = Stamp(entry.size, entry.modified)

    def save(self) -> None:
        """Write what was remembered into the job table."""
        if self._no_images:
            with self._database.write() as session:
                note_seen(session, self._schedule, self._no_images)
            self._no_images = {}
