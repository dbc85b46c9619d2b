"""Sources of images, and the walk through them that finds the images."""

from __future__ import annotations

from importlib import import_module

from scheduler.ingest.source import Source
from scheduler.ingest.sources import source_modules
from worker.files.roots import Roots

#: Modules that accept every path and every URL. They are asked after all others.
_GENERAL = ("folder", "remote")


def open_source(where: str) -> Source:
    """Return the source that a path or a URL names.

    Raises SourceMissing, SourceUnreadable, SourceUnsupported, SourceOutsideRoots, RemoteUrlInvalid,
    RemoteUnsupported.
    """
    roots = Roots.read()
    modules = source_modules()
    for name in sorted(modules, key=lambda name: name in _GENERAL):
        kind = import_module(modules[name])
        if kind.accepts(where):
            source: Source = kind.open_source(where, roots)
            return source
    raise AssertionError("every name is a path or a URL")
