"""Changes of the embedded stack that only tests make."""

from __future__ import annotations

from deploy.control import Control
from deploy.stack import Stack


def stop_process(stack: Stack, name: str) -> None:
    """Stop one process and leave it stopped. Raises StackNotRunning."""
    control = Control(stack.run)
    (group,) = (one["group"] for one in control.call("getAllProcessInfo") if one["name"] == name)
    control.call("stopProcess", f"{group}:{name}", waits=True)
