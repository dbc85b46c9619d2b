"""Folders of any depth, and single files."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from io import BufferedReader
from pathlib import Path

from db.images import NewImage
from db.problems import EmptyFile, FileUnreadable, OutsideRoots
from db.roots import EVERYWHERE, Roots, SourceOutsideRoots
from db.tree import walk_files
from db.uri import path_to_uri
from scheduler.ingest.dicom import Identity, read_identity
from scheduler.ingest.look import START_BYTES, look
from scheduler.ingest.source import SourceMissing, SourceUnreadable, SourceUnsupported


class FolderSource:
    """The images in a folder and all folders below it, or one image file."""

    def __init__(self, path: Path, roots: Roots = EVERYWHERE) -> None:
        """Raise SourceMissing, SourceUnreadable, SourceUnsupported or SourceOutsideRoots: nothing to walk."""
        self.ignored = self.closed_folders = 0
        self._roots = roots
        try:
            self.path = path.expanduser().resolve(strict=True)
            mode = self.path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            raise SourceMissing from None
        except (OSError, RuntimeError):
            raise SourceUnreadable from None
        try:
            roots.check(self.path)
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

    def walk(self) -> Iterator[NewImage]:
        """Yield the images in the order of their paths.

        Links to files are followed, unless they lead out of the roots; links to folders are not, so that a
        loop has no way to close. Folders that others keep to themselves are counted and left out, as a
        `lost+found`; of any other that cannot be listed nobody knows what is in it: raises SourceUnreadable.
        """
        if self.path.is_file():
            yield from self._look(self.path)
            return
        for folder, names in walk_files(str(self.path), self._pass_over):
            for name in names:
                yield from self._look(Path(folder, name))

    def _pass_over(self, error: OSError) -> None:
        """Count a folder that this user may not list. Raises SourceUnreadable."""
        if not isinstance(error, PermissionError) or error.filename == str(self.path):
            raise SourceUnreadable(error.strerror or "") from None
        self.closed_folders += 1

    def _look(self, path: Path) -> Iterator[NewImage]:
        """Yield the file's image, if it is one."""
        image = look(path.name, path_to_uri(path), partial(self._start, path), partial(self._identity, path))
        if image is None:
            self.ignored += 1
        else:
            yield _as_it_is_now(image, path)

    def _start(self, path: Path) -> bytes:
        """Return the bytes that tell a DICOM file.

        Raises EmptyFile, OutsideRoots, FileVanished, FileUnreadable.
        """
        with self._roots.open_file(path) as file:
            try:
                start = file.read(START_BYTES)
            except OSError:
                raise FileUnreadable from None
        if not start:
            raise EmptyFile
        return start

    def _identity(self, path: Path) -> Identity:
        """Read a DICOM file's identifiers.

        Raises OutsideRoots, FileVanished, FileUnreadable, CorruptImage.
        """
        with self._roots.open_file(path) as file, BufferedReader(file) as buffered:
            return read_identity(buffered)


def _as_it_is_now(image: NewImage, path: Path) -> NewImage:
    """Note size and date, by which the worker tells a file that has changed since."""
    try:
        status = path.stat()
    except OSError:
        return image
    return replace(image, size=status.st_size, modified=status.st_mtime)
