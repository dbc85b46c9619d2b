"""The walk through folders of any depth, even if a path is too long for the system to open."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator

from worker.files.omissions import Omissions

#: Bytes of a path that are passed to the system at a time. Linux accepts 4,096 (PATH_MAX).
_PIECE_BYTES = 3_500

_FOLDER = os.O_RDONLY | os.O_DIRECTORY


def walk_files(
    top: str, omissions: Omissions, on_error: Callable[[OSError], None]
) -> Iterator[tuple[str, list[str]]]:
    """Yield every folder with the names of the files in it, both in the order of their names.

    A link to a file is a file. A link to a folder is neither followed nor yielded, so that no loop is
    possible. `omissions` says which folders are not walked, and counts them and the links. `on_error` gets
    the error of each folder that cannot be listed. Unlike `os.walk`, this function does not call itself: a
    thousand nested folders would exceed the recursion limit.
    """
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        try:
            folders, files, links = _list(folder)
        except OSError as error:
            on_error(error)
            continue
        omissions.links += links
        yield folder, sorted(files)
        walked = [name for name in folders if not omissions.skips(name)]
        waiting += [f"{folder.rstrip('/')}/{name}" for name in sorted(walked, reverse=True)]


def _list(folder: str) -> tuple[list[str], list[str], int]:
    """Return the names of a folder's folders, those of its files, and the number of links to folders."""
    try:
        return _split(folder)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
    opened = _open_deep(folder)
    try:
        return _split(opened)
    finally:
        os.close(opened)


def _split(folder: str | int) -> tuple[list[str], list[str], int]:
    folders, files, links = [], [], 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if not _is_folder(entry):
                files.append(entry.name)
            elif entry.is_symlink():
                links += 1
            else:
                folders.append(entry.name)
    return folders, files, links


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a loop
        return False


def _open_deep(folder: str) -> int:
    """Open a folder by its absolute path, piece by piece."""
    opened, rest = os.open("/", _FOLDER), os.fsencode(folder).lstrip(b"/")
    while rest:
        end = len(rest) if len(rest) <= _PIECE_BYTES else rest.rindex(b"/", 0, _PIECE_BYTES)
        outer = opened
        try:
            opened = os.open(rest[:end], _FOLDER, dir_fd=outer)
        finally:
            os.close(outer)
        rest = rest[end:].lstrip(b"/")
    return opened
