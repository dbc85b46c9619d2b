"""Where images come from: one module per kind of source."""

from __future__ import annotations

from pathlib import Path

from scheduler.ingest.source import Source
from worker.files.roots import Roots
from worker.files.url import is_local


def open_source(where: str) -> Source:
    """Return the source that a path or a URL names.

    Raises SourceMissing, SourceUnreadable, SourceUnsupported, SourceOutsideRoots, RemoteUrlInvalid.
    """
    roots = Roots.read()
    if not is_local(where):
        from scheduler.ingest.remote import RemoteSource

        return RemoteSource(where, roots)
    from scheduler.ingest.folder import FolderSource

    return FolderSource(Path(where), roots)
