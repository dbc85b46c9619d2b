"""Events of the audit log as they are written: who did what, to which row."""

from __future__ import annotations

import os
import pwd
import re

from pydantic import JsonValue
from sqlalchemy.orm import Session

from db.tables import Event

#: Variables that hold a user's name, set by sudo, by a login or by hand. The user can set them to anything.
_CLAIMED = ("SUDO_USER", "LOGNAME", "USER")

#: Characters that are not part of a user's name, and the most characters of one that are kept.
_UNFIT, _LONGEST = re.compile(r"[^\w.@$\\+-]"), 64


def record(
    session: Session, action: str, subject: str, *, actor: str | None = None, **detail: JsonValue
) -> Event:
    """Add an event to the transaction that does the action, so that both happen or neither; return it.

    `actor` is a user that the caller has authenticated, such as the user of a web page; None is the operating
    system's user. `detail` holds ids and counts, no patient data.
    """
    who = _operating_system_user() if actor is None else _fit(actor)
    event = Event(actor=who, action=action, subject=subject, detail=detail)
    session.add(event)
    return event


def _operating_system_user() -> str:
    """Return the name of the user that the process runs as.

    If the environment names somebody else, that name is added, as in `screening on behalf of maria`. It is
    a claim that nobody has checked.
    """
    user = os.getuid()
    try:
        name = _fit(pwd.getpwuid(user).pw_name)
    except KeyError:  # a container may run under an id that has no name
        name = f"uid {user}"
    for variable in _CLAIMED:
        claimed = _fit(os.environ.get(variable, ""))
        if claimed not in ("", name):
            return f"{name} on behalf of {claimed}"
    return name


def _fit(name: str) -> str:
    return _UNFIT.sub("?", name)[:_LONGEST]
