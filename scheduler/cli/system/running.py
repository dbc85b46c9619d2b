"""The embedded stack as commands run it, and the workers that answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from db.engine import Database
from db.jobs.notifications import forget_notifications
from deploy.stack import Stack


@contextmanager
def running_stack(database: Database, *, keep: bool = False) -> Iterator[Stack]:
    """Run the embedded stack while the block lasts or others use it, or, with `keep`, until `down`."""
    stack = Stack()
    with stack.use(lambda: _forget_notifications(database), keep=keep):
        yield stack


def start_stack(database: Database, stack: Stack) -> None:
    """Start the embedded stack, if it is not running, until `down`."""
    stack.start(lambda: _forget_notifications(database))


def _forget_notifications(database: Database) -> None:
    """Prepare for an empty broker: all notifications must be sent again."""
    with database.write() as session:
        forget_notifications(session)


def workers_answer() -> bool:
    """Tell whether a screening worker and housekeeping answer through the broker."""
    # If a host has several, each has a number, as in `screen-1@host`.
    return {"screen", "housekeeping"} <= {name.split("@")[0].split("-")[0] for name in answering()}


def answering() -> set[str]:
    """Return the workers that answer through the broker, as in `screen@host`."""
    from kombu.exceptions import OperationalError
    from redis.exceptions import RedisError

    from worker.broker.app import make_app

    # Not `worker.broker.app.app`, which has the broker that was set when it was imported: each start of the
    # stack has a new one.
    app = make_app()
    try:
        replies = app.control.ping(timeout=1.0)
    except (OperationalError, RedisError, OSError):
        return set()
    return {name for reply in replies for name in reply}
