"""Private files that are written whole or not at all, and the error for a full disk."""

from __future__ import annotations

import errno
import os
import resource
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from db.errors import PneumoscreenError

#: Errors of file systems that have no hard links: FAT and some network shares.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
#: Errors of file systems that cannot sync a folder, and of a folder that may be written and not read.
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EACCES)


class DiskFull(PneumoscreenError):
    """The disk is full. Make room there, or move the data directory, and do the same again."""

    code = "disk-full"


@contextmanager
def needs_room() -> Iterator[None]:
    """Raise DiskFull if the block finds no room to write."""
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        raise DiskFull from None


def is_full(error: OSError) -> bool:
    """Tell whether an error means that the disk, or this user's quota, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def keep_private() -> None:
    """Create new files with mode 0600 and new folders with 0700, whatever the umask was, and no core dumps.

    If a damaged image ends a worker, a core dump would hold the image and its header.
    """
    os.umask(0o077)
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, most))


def create_private(path: Path) -> BinaryIO:
    """Open a new file that its owner alone can read. It replaces any file or link of that name.

    Raises OSError.
    """
    path.unlink(missing_ok=True)
    return _create(path)


def _create(path: Path) -> BinaryIO:
    # Exclusive: if somebody creates a file or a link meanwhile, this fails and does not write to it.
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb")


def partial_beside(path: Path) -> Path:
    """Return an unused hidden name in a path's folder: `.0123456789abcdef.partial`.

    Two processes that write to one path at once use different files. A file that a killed process leaves
    under such a name can be deleted.
    """
    return path.with_name(f".{secrets.token_hex(8)}.partial")


def remove_partials(folder: Path) -> None:
    """Remove the partial files of killed processes from a folder that no other process writes to."""
    for left in folder.glob(".*.partial"):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


@contextmanager
def write_whole(path: Path, *, replace: bool = True) -> Iterator[BinaryIO]:
    """Open a new private file that gets the path's name when the block ends, or is removed when it raises.

    From then on the file and its name survive a power cut. Without `replace`, an existing file stays and
    FileExistsError is raised. The block must not close the file. Raises OSError.
    """
    partial = partial_beside(path)
    file = _create(partial)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        place(partial, path, replace=replace)
    finally:
        partial.unlink(missing_ok=True)


def place(partial: Path, path: Path, *, replace: bool = True) -> None:
    """Give a finished file its name, and wait until the name would survive a power cut.

    Without `replace`, it raises FileExistsError if the name is taken. Raises OSError.
    """
    if replace:
        partial.replace(path)
    else:
        _link(partial, path)
    sync_folder(path.parent)


def _link(partial: Path, path: Path) -> None:
    try:
        os.link(partial, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # An empty file reserves the name, exclusively; only our own file replaces it.
        _create(path).close()
        try:
            partial.replace(path)
        except OSError:
            path.unlink()
            raise
    else:
        partial.unlink()


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder would survive a power cut, if its file system supports that."""
    try:
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
