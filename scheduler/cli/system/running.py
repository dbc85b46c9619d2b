"""The embedded stack as commands run it, and the workers that answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from urllib.parse import urlsplit

from db.engine import Database
from db.jobs.notifications import forget_notifications
from deploy.settings import StackSettings
from deploy.stack import Stack
from scheduler.cli.console import errors
from worker.settings import BrokerSettings

#: A worker that is not blocked answers in 0.01 s.
_ANSWER_SECONDS = 1.0

#: What people call a worker, by the beginning of its name.
_KINDS = {"screen": "screening", "housekeeping": "housekeeping", "training": "training"}

#: Shown until the first image of a cohort is screened, if the stack was started for it.
LOADING = "loading the model ..."


@contextmanager
def running_stack(database: Database, *, keep: bool = False) -> Iterator[tuple[Stack, str]]:
    """Run the embedded stack while the block lasts or others use it, or, with `keep`, until `down`.

    Yields it, with what its workers do until the first image is screened.
    """
    stack = Stack()
    if not stack.is_running():
        errors.print("Starting the workers ...")
    with stack.use(lambda: _forget_notifications(database), keep=keep) as started:
        yield stack, LOADING if started else "waiting for a worker ..."


def start_stack(database: Database, stack: Stack) -> bool:
    """Start the embedded stack until `down`; return False if it was running."""
    return stack.start(lambda: _forget_notifications(database))


def _forget_notifications(database: Database) -> None:
    """Prepare for an empty broker: all notifications must be sent again."""
    with database.write() as session:
        forget_notifications(session)


def workers_answer() -> bool:
    """Tell whether a screening worker and housekeeping answer through the broker."""
    return missing_workers({"screen", "housekeeping"}) == set()


def say_missing_workers(wanted: Set[str], what_waits: str) -> None:
    """Say if nobody does what was asked for now, and how to change that. It takes one second at most.

    Nothing is said if it cannot be told, for example because a broker elsewhere is unavailable.
    """
    missing = missing_workers(wanted)
    if missing is None and _has_own_broker():
        missing = set(wanted)  # the broker runs beside its workers
    if missing:
        kinds = "" if missing == wanted else " and ".join(sorted(_KINDS[one] for one in missing)) + " "
        errors.print(f"No {kinds}worker answers: {what_waits}. `pneumoscreen up` starts workers here.")


def _has_own_broker() -> bool:
    """Tell whether the broker in the settings is that of the embedded stack, which does not run."""
    url = BrokerSettings.read().broker_url.get_secret_value()
    return StackSettings.read().embedded_broker and urlsplit(url).hostname in ("127.0.0.1", "localhost")


class _AllThere(Exception):
    """Every worker that is wanted has answered."""


def missing_workers(wanted: Set[str]) -> set[str] | None:
    """Return the kinds of workers that do not answer within a second; None if the broker is unavailable."""
    missing = set(wanted)

    def note(reply: dict[str, object]) -> None:
        # If a host has several, each has a number, as in `screen-1@host`.
        missing.difference_update(name.split("@")[0].split("-")[0] for name in reply)
        if not missing:
            raise _AllThere

    try:
        replies = _ping(note)
    except _AllThere:
        return set()
    return None if replies is None else missing


def answering() -> set[str]:
    """Return the workers that answer through the broker, as in `screen@host`."""
    return {name for reply in _ping() or () for name in reply}


def _ping(note: Callable[[dict[str, object]], None] | None = None) -> list[dict[str, object]] | None:
    """Return the answers of all workers; None if the broker is unavailable. `note` gets each at once."""
    from kombu.exceptions import OperationalError
    from redis.exceptions import RedisError

    from worker.broker.app import make_app

    # Not `worker.broker.app.app`, which has the broker that was set when it was imported: each start of the
    # stack has a new one.
    app = make_app()
    try:
        replies: list[dict[str, object]] = app.control.ping(timeout=_ANSWER_SECONDS, callback=note)
    except (OperationalError, RedisError, OSError):
        return None
    return replies
