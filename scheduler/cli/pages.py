"""The addresses of the embedded stack's pages: Flower and the metrics."""

from __future__ import annotations

from db.text import counted
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
            count = counted(len(left_over), "process", "processes")
            errors.print(
                f"supervisord was killed and has left {count}. `pneumoscreen down` stops what it left."
            )
        return
    user, password = stack.flower_login
    login = f"  user {user}  password {password}"
    for name, page, address in (
        ("flower", "Flower", stack.flower_address + login),
        ("metrics", "Metrics", stack.metrics_address),
    ):
        # Another program may have taken the port: its address is not ours to print.
        said = address if stack.serves(name) else f"does not answer yet; {name}.log says why if it stays so"
        console.print(f"{page}: {said}", markup=False)
