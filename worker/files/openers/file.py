"""The opener of local files and of `file:` URIs."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

from db.jobs.problems import FileTooLarge, FileUnreadable, FileVanished, OutsideRoots, PathTooLong
from worker.files.omissions import Omissions
from worker.files.opener import Content, Entry, read_up_to
from worker.files.roots import Roots
from worker.files.tree import walk_files
from worker.files.url import path_to_uri, uri_to_path

#: Flags to open a folder on the way to a file. With O_PATH the folder need not be readable.
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY


class FileOpener:
    """Access to local files."""

    #: The server of a network share answers in parallel. More threads would wait for the interpreter.
    threads = 8

    def check(self, url: str, roots: Roots) -> None:
        """Raise OutsideRoots if the path, with its links resolved, lies outside the roots."""
        roots.check_path(uri_to_path(url))

    def read_file(self, url: str, limit: int, roots: Roots) -> Content:
        """Return a file's bytes. Raises FileTooLarge, and the errors of `open_file`."""
        with open_file(uri_to_path(url), roots) as file:
            status = os.fstat(file.fileno())
            if status.st_size > limit:
                raise FileTooLarge
            # The file may grow while it is read.
            data = _read(file, limit + 1)
        if len(data) > limit:
            raise FileTooLarge
        return Content(data, status.st_mtime)

    def read_start(self, url: str, size: int, roots: Roots) -> bytes:
        """Return at most the first `size` bytes. Raises the errors of `open_file`."""
        with open_file(uri_to_path(url), roots) as file:
            return _read(file, size)

    def list_files(self, url: str, roots: Roots, omissions: Omissions) -> Iterator[Entry]:
        """Yield the files below a folder, in the order of their paths.

        A link to a file is a file. A link to a folder is not followed, so that no loop is possible. A folder
        below that this user may not list is counted. Raises OutsideRoots, OSError.
        """
        top = uri_to_path(url)
        roots.check_path(top)

        def pass_over(error: OSError) -> None:
            if not isinstance(error, PermissionError) or error.filename == str(top):
                raise error
            omissions.closed += 1

        for folder, names in walk_files(str(top), omissions, pass_over):
            inside = folder.rstrip("/")
            for name in names:
                yield entry_of(f"{inside}/{name}")

    def is_available(self, url: str, roots: Roots) -> bool:
        """Whether a folder is there and holds something, or is a file.

        An unmounted share leaves an empty folder behind, or none, or one that cannot be read.
        """
        path = uri_to_path(url)
        try:
            roots.check_path(path)
            with os.scandir(path) as entries:
                return next(entries, None) is not None
        except (NotADirectoryError, OutsideRoots):
            return True
        except (OSError, ValueError):
            return False


def open_file(path: Path, roots: Roots) -> FileIO:
    """Open a regular file inside the roots, unbuffered.

    A link that replaces a part of the path after the check is not followed. Raises OutsideRoots,
    FileVanished, PathTooLong, FileUnreadable.
    """
    try:
        file = FileIO(path, opener=lambda name, flags: _open(name, flags, roots))
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise FileUnreadable
    except (FileNotFoundError, NotADirectoryError):
        raise FileVanished from None
    except OSError as error:
        raise (PathTooLong if error.errno == errno.ENAMETOOLONG else FileUnreadable) from None
    except ValueError:
        raise FileUnreadable from None
    return file


def entry_of(path: Path | str) -> Entry:
    """Return a file's entry; a link without a target has neither size nor time."""
    uri = path_to_uri(path)
    try:
        status = os.stat(path)  # noqa: PTH116  (to make a Path takes longer)
    except OSError:
        return Entry(uri)
    return Entry(uri, status.st_size, status.st_mtime)


def _open(path: str, flags: int, roots: Roots) -> int:
    # A named pipe would block until a process writes to it.
    flags |= getattr(os, "O_NONBLOCK", 0)
    if not roots.places:
        return os.open(path, flags)
    root, (*folders, name) = roots.split(Path(path))
    # Each folder is opened relative to the last one, without following links: the path has been resolved, so
    # a link in it was put there since then, and is an error.
    folder = os.open(root, _FOLDER)
    try:
        for part in folders:
            outer = folder
            folder = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=outer)
            os.close(outer)
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=folder)
    finally:
        os.close(folder)


def _read(file: FileIO, size: int) -> bytes:
    try:
        return read_up_to(file, size)
    except OSError:
        raise FileUnreadable from None


OPENER = FileOpener()
