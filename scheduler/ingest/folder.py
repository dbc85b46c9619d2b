"""Folders of any depth, and single files."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from db.images import NewImage
from db.problems import EmptyFile, FileUnreadable, FileVanished
from db.uri import path_to_uri
from scheduler.ingest.dicom import read_identity
from scheduler.ingest.look import START_BYTES, look
from scheduler.ingest.source import SourceMissing, SourceUnreadable, SourceUnsupported


class FolderSource:
    """The images in a folder and all folders below it, or one image file."""

    def __init__(self, path: Path) -> None:
        """Raise SourceMissing, SourceUnreadable or SourceUnsupported where there is nothing to walk."""
        self.ignored = 0
        try:
            self.path = path.expanduser().resolve(strict=True)
            mode = self.path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            raise SourceMissing from None
        except (OSError, RuntimeError):
            raise SourceUnreadable from None
        if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
            raise SourceUnsupported
        if not os.access(self.path, os.R_OK | (os.X_OK if stat.S_ISDIR(mode) else 0)):
            raise SourceUnreadable

    @property
    def described(self) -> str:
        """The path."""
        return str(self.path)

    def walk(self) -> Iterator[NewImage]:
        """Yield the images in the order of their paths.

        Links to files are followed; links to folders are not, so that a loop has no way to close.
        """
        if self.path.is_file():
            yield from self._look(self.path)
            return
        for folder, subfolders, names in os.walk(self.path):
            subfolders.sort()
            for name in sorted(names):
                yield from self._look(Path(folder, name))

    def _look(self, path: Path) -> Iterator[NewImage]:
        """Yield the file's image, if it is one."""
        image = look(path.name, path_to_uri(path), partial(_start, path), partial(read_identity, path))
        if image is None:
            self.ignored += 1
        else:
            yield _as_it_is_now(image, path)


def _as_it_is_now(image: NewImage, path: Path) -> NewImage:
    """Note size and date, by which the worker tells a file that has changed since."""
    try:
        status = path.stat()
    except OSError:
        return image
    return replace(image, size=status.st_size, modified=status.st_mtime)


def _start(path: Path) -> bytes:
    """Return the bytes that tell a DICOM file.

    Raises EmptyFile, FileVanished, FileUnreadable.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            # A pipe or a device would hold us until somebody writes to it.
            raise FileUnreadable
        with path.open("rb") as file:
            start = file.read(START_BYTES)
    except FileNotFoundError:
        raise FileVanished from None
    except OSError:
        raise FileUnreadable from None
    if not start:
        raise EmptyFile
    return start
