"""The addresses of the embedded stack's pages: Flower and the metrics."""

from __future__ import annotations

from scheduler.cli.console import console, errors


def print_pages() -> None:
    """Print the addresses of Flower and of the metrics, and Flower's login, while the stack runs.

    If supervisord was killed, print how many processes it has left.
    """
    from deploy.control import StackNotOurs
    from deploy.stack import Stack

    stack = Stack()
    if not stack.run.is_dir():
        return
    try:
        is_gone = stack.is_gone()
    except StackNotOurs:  # another user's stack: its login is not for this user
        return
    if is_gone:
        if left_over := stack.left_over():
            count = f"{len(left_over)} processes"
            errors.print(f"supervisord was killed and has left {count}. `pneumoscreen down` stops them.")
        return
    user, password = stack.flower_login
    console.print(
        f"Flower: {stack.flower_address}  user {user}  password {password}\nMetrics: {stack.metrics_address}",
        markup=False,
    )
