"""What this process writes, for its owner alone."""

from __future__ import annotations

import os
import resource


def keep_private() -> None:
    """Let new files be 0600 and new folders 0700, whatever the shell says, and leave no core dumps.

    A core dump of a worker that a damaged image has killed would hold the image and its header.
    """
    os.umask(0o077)
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, most))
