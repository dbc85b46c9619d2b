"""What this process writes, for its owner alone."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import BinaryIO


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
    # Exclusively: a file that somebody makes meanwhile, or a link, is an error and not written to.
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb")
