"""Writing the audit log."""

from __future__ import annotations

import os
import pwd
import re

from pydantic import JsonValue
from sqlalchemy.orm import Session

from db.tables import Event

#: Where a user's name is set: by sudo, by a login, by hand. Whoever runs the program decides what it says.
_SAID = ("SUDO_USER", "LOGNAME", "USER")

#: What no name of a user holds, and how much of one is kept.
_UNFIT, _LONGEST = re.compile(r"[^\w.@$\\+-]"), 64


def record(session: Session, action: str, subject: str, **detail: JsonValue) -> None:
    """Add an event to the transaction that does what it tells of, so that both happen or neither.

    `detail` holds ids and counts, no patient data.
    """
    session.add(Event(actor=_actor(), action=action, subject=subject, detail=detail))


def _actor() -> str:
    """Return the name of the operating system's user that the process really runs as.

    If the environment names somebody else it is added, as in `screening on behalf of maria`: it is what was
    said, and not what was checked.
    """
    user = os.getuid()
    try:
        name = _fit(pwd.getpwuid(user).pw_name)
    except KeyError:  # a container may run under an id that has no name
        name = f"uid {user}"
    for source in _SAID:
        said = _fit(os.environ.get(source, ""))
        if said not in ("", name):
            return f"{name} on behalf of {said}"
    return name


def _fit(name: str) -> str:
    return _UNFIT.sub("?", name)[:_LONGEST]
