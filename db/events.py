"""Writing the audit log."""

from __future__ import annotations

import getpass

from pydantic import JsonValue
from sqlalchemy.orm import Session

from db.tables import Event


def record(session: Session, action: str, subject: str, **detail: JsonValue) -> None:
    """Add an event to the transaction that does what it tells of, so that both happen or neither.

    `detail` holds ids and counts, no patient data.
    """
    session.add(Event(actor=_actor(), action=action, subject=subject, detail=detail))


def _actor() -> str:
    """Return the operating system's user; a container may run under an id that has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
