"""A process of the embedded stack that stops it when its last user has been killed.

A command that ends by itself stops the stack that it started. One that is killed cannot: this does.
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
    """Stop supervisord, once nobody wants the stack, for as long as it is our parent."""
    while os.getppid() == supervisord:
        try:
            with users.alone(0):
                if not users.is_wanted():
                    os.kill(supervisord, signal.SIGTERM)
                    # Keep the lock until supervisord ends us: from then on it tells others that it stops.
                    while os.getppid() == supervisord:
                        time.sleep(_LOOK_SECONDS)
        except StackBusy:
            pass  # somebody starts or stops it
        time.sleep(_LOOK_SECONDS)


if __name__ == "__main__":
    # supervisord starts its processes in the `run` folder. If it was killed since, we have another parent,
    # which is none of our business.
    watch(Users(Path.cwd()), int(Path("supervisord.pid").read_text(encoding="ascii")))
