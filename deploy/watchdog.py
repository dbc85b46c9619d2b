"""The watchdog, a process of the embedded stack that stops it when its last user has been killed.

A command that ends by itself stops the stack that it started. A killed command cannot, so the watchdog does.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from deploy.users import StackBusy, Users

#: How soon an unused stack is stopped.
_LOOK_SECONDS = 1.0


def watch(users: Users, supervisord: int) -> None:
    """Stop supervisord once the stack is not wanted; return when supervisord is no longer our parent."""
    while os.getppid() == supervisord:
        try:
            with users.alone(0):
                if not users.is_wanted():
                    os.kill(supervisord, signal.SIGTERM)
                    # Keep the lock until supervisord ends this process. From then on supervisord itself
                    # reports that it stops.
                    while os.getppid() == supervisord:
                        time.sleep(_LOOK_SECONDS)
        except StackBusy:
            pass  # another command starts or stops the stack
        time.sleep(_LOOK_SECONDS)


if __name__ == "__main__":
    # supervisord starts its processes in the `run` folder. If it was killed since, this process has another
    # parent, which must not be stopped.
    watch(Users(Path.cwd()), int(Path("supervisord.pid").read_text(encoding="ascii")))
