"""Room on the disk, which may end while a file is written."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from db.errors import PneumoscreenError


class DiskFull(PneumoscreenError):
    """The disk is full. Make room there, or move the data directory, and do the same again."""

    code = "disk-full"


@contextmanager
def needs_room() -> Iterator[None]:
    """Raise DiskFull where the block finds no room to write."""
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        raise DiskFull from None


def is_full(error: OSError) -> bool:
    """Whether an error says that the disk, or this user's share of it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)
