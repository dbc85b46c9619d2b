"""What Flower remembers over a restart, and whether it may be read."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

log = logging.getLogger(__name__)


def is_ours_alone(folder: Path) -> bool:
    """Make the folder of Flower's state, or tell whether nobody else can have written what is in it.

    The state is a shelf, and reading it runs what is in it. Flower starts without it where it is not ours.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if all(_is_ours(path) for path in (folder, *folder.iterdir())):
        return True
    log.error("others may have written Flower's state, which is left unread: remove it, with its folder")
    return False


def _is_ours(path: Path) -> bool:
    status = path.lstat()
    return (
        not stat.S_ISLNK(status.st_mode)
        and status.st_uid == os.geteuid()
        and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    )
