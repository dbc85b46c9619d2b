"""Where the embedded stack shows itself."""

from __future__ import annotations

from scheduler.cli.console import console


def print_pages() -> None:
    """Print the addresses of Flower and of the metrics, and Flower's login, while the stack runs."""
    from deploy.stack import Stack

    stack = Stack()
    if stack.is_gone():
        return
    user, password = stack.flower_login
    console.print(
        f"Flower: {stack.flower_address}  user {user}  password {password}\nMetrics: {stack.metrics_address}",
        markup=False,
    )
