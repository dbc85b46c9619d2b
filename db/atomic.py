"""What this process writes, for its owner alone, whole or not at all."""

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

#: What file systems say that have no hard links: FAT and some network shares.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
#: What they say that cannot write a folder's names out, and of a folder that may be written to and not read.
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EACCES)


def keep_private() -> None:
    """Let new files be 0600 and new folders 0700, whatever the shell says, and leave no core dumps.

    A core dump of a worker that a damaged image has killed would hold the image and its header.
    """
    os.umask(0o077)
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, most))


def create_private(path: Path) -> BinaryIO:
    """Open a new file that its owner alone can read, in place of whatever was left or planted there.

    Raises OSError.
    """
    path.unlink(missing_ok=True)
    return _create(path)


def _create(path: Path) -> BinaryIO:
    # Exclusively: a file that somebody makes meanwhile, or a link, is an error and not written to.
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb")


def partial_beside(path: Path) -> Path:
    """Return a hidden name in a path's folder that nobody else uses: `.0123456789abcdef.partial`.

    Two who write to one path at once never write into one file. What a killed process leaves under such a
    name can be deleted.
    """
    return path.with_name(f".{secrets.token_hex(8)}.partial")


def remove_partials(folder: Path) -> None:
    """Remove what killed processes left in a folder that nobody else writes to now."""
    for left in folder.glob(".*.partial"):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


@contextmanager
def write_whole(path: Path, *, replace: bool = True) -> Iterator[BinaryIO]:
    """Open a new private file that gets the path's name when the block ends, and is removed when it raises.

    The file and its name outlast a power cut from then on. Without `replace`, a file that has the name
    already stays, and FileExistsError is raised. The block leaves the file open. Raises OSError.
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
    """Give a finished file its name, and wait until the name would outlast a power cut.

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
        # The empty file takes the name first, exclusively; only our own file replaces it.
        _create(path).close()
        try:
            partial.replace(path)
        except OSError:
            path.unlink()
            raise
    else:
        partial.unlink()


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder would outlast a power cut, if its file system can do that."""
    try:
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
