"""The doorbell: asks the stack to look at its work now rather than at its next tick."""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)


def ask_for_batches() -> None:
    """Ask once, after what is to be screened has been committed; nobody there to hear it does no harm."""
    from worker.app import DISPATCH

    _ask(DISPATCH)


def ask_for_nights() -> None:
    """Ask for a look at the nightly runs."""
    from worker.app import NIGHTLY

    _ask(NIGHTLY)


def _ask(task: str) -> None:
    from kombu.exceptions import OperationalError

    from worker.app import make_app

    # Not `worker.app.app`, whose broker is that of the moment when it was imported.
    app = make_app()
    try:
        app.send_task(task)
    except OperationalError:
        log.info("no broker to ask; the next tick does it")
