"""Times as people read them: in the time zone of this machine, which is named."""

from __future__ import annotations

from datetime import UTC, datetime


def local_time(moment: float, *, seconds: bool = False) -> str:
    """Return a moment, in seconds since 1970 UTC, as in `2026-05-01 21:30 CEST`.

    The zone is that of the environment (`TZ`), else of the system.
    """
    local = datetime.fromtimestamp(moment, UTC).astimezone()
    return local.strftime("%Y-%m-%d %H:%M:%S %Z" if seconds else "%Y-%m-%d %H:%M %Z")
