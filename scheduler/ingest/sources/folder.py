"""The source of local images: a folder of any depth, or one file."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from io import BufferedReader, FileIO
from pathlib import Path

from db.jobs.images import NewImage
from db.jobs.problems import EmptyFile, FileUnreadable, ImageProblem, OutsideRoots
from scheduler.ingest.dicom import Identity, read_identity
from scheduler.ingest.recognition import START_BYTES, is_expected, is_hidden, not_readable, recognise
from scheduler.ingest.source import Source, SourceMissing, SourceUnreadable, SourceUnsupported
from worker.files.access import list_files
from worker.files.opener import Entry
from worker.files.openers.file import OPENER, entry_of, open_file
from worker.files.roots import EVERYWHERE, Roots, SourceOutsideRoots
from worker.files.url import is_local, path_to_uri, uri_to_path


def accepts(where: str) -> bool:
    """Whether a name is a path."""
    return is_local(where)


def open_source(where: str, roots: Roots) -> Source:
    """Return the source that a path names. Raises the errors of FolderSource."""
    return FolderSource(Path(where), roots)


class FolderSource(Source):
    """The images in a folder and in all folders below it, or one image file."""

    threads = OPENER.threads
    #: To open a local file takes less time than to hand it to a thread.
    group_size = 32

    def __init__(self, path: Path, roots: Roots = EVERYWHERE) -> None:
        """Raise SourceMissing, SourceUnreadable, SourceUnsupported or SourceOutsideRoots."""
        self._roots = roots
        try:
            self.path = path.expanduser().resolve(strict=True)
            mode = self.path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            raise SourceMissing from None
        except (OSError, RuntimeError):
            raise SourceUnreadable from None
        try:
            roots.check_path(self.path)
        except OutsideRoots:
            raise SourceOutsideRoots from None
        if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
            raise SourceUnsupported
        if not os.access(self.path, os.R_OK | (os.X_OK if stat.S_ISDIR(mode) else 0)):
            raise SourceUnreadable

    @property
    def described(self) -> str:
        """The path."""
        return path_to_uri(self.path)

    def entries(self) -> Iterator[Entry]:
        """Yield the files in the order of their paths.

        A link to a file is followed if it stays inside the roots. A link to a folder, a folder of a system,
        such as `@eaDir`, and a folder that this user may not list are counted and left out. Raises
        SourceUnreadable if a folder cannot be listed for any other reason, SourceOutsideRoots.
        """
        if self.path.is_file():
            yield entry_of(self.path)
            return
        try:
            yield from list_files(self.described, self.omissions, roots=self._roots)
        except OutsideRoots:
            raise SourceOutsideRoots from None
        except OSError as error:
            raise SourceUnreadable(error.strerror or "") from None

    def inspect(self, entry: Entry) -> NewImage | None:
        """Return the file's image, with the size and the time of the bytes that were inspected.

        By these, the worker detects that the file has changed since. Raises FileVanished, FileUnreadable.
        """
        path = uri_to_path(entry.uri)
        if is_hidden(path.name):
            return None
        try:
            file = open_file(path, self._roots)
        except ImageProblem as problem:
            image = not_readable(entry.uri, problem, expected=is_expected(path.name))
            return image and replace(image, size=entry.size, modified=entry.modified)
        with file:
            status = os.fstat(file.fileno())
            image = recognise(path.name, entry.uri, partial(_start, file), partial(_identity, file))
        return image and replace(image, size=status.st_size, modified=status.st_mtime)


def _start(file: FileIO) -> bytes:
    """Return the bytes that show whether a file is DICOM or a raster. Raises EmptyFile, FileUnreadable."""
    try:
        start = file.read(START_BYTES)
    except OSError:
        raise FileUnreadable from None
    if not start:
        raise EmptyFile
    return start


def _identity(file: FileIO) -> Identity:
    """Read a DICOM file's identifiers. Raises FileUnreadable, CorruptImage."""
    return read_identity(BufferedReader(file))
