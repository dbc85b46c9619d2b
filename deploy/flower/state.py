"""The check whether Flower may read the state that it kept over a restart."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

log = logging.getLogger(__name__)


def is_ours_alone(folder: Path) -> bool:
    """Make the folder of Flower's state if needed, and tell whether only our user can have written its files.

    The state is a shelf, and reading a shelf can run code. If the check fails, Flower starts without it.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if all(_is_ours(path) for path in (folder, *folder.iterdir())):
        return True
    log.error("Flower's state is not read: another user may have written it; remove it, with its folder")
    return False


def _is_ours(path: Path) -> bool:
    status = path.lstat()
    return (
        not stat.S_ISLNK(status.st_mode)
        and status.st_uid == os.geteuid()
        and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    )
