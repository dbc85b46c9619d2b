"""Times as people read them: in a time zone that is named."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo


def local_time(moment: float, zone: tzinfo | None = None, *, seconds: bool = False) -> str:
    """Return a moment, in seconds since 1970 UTC, as in `2026-05-01 21:30 CEST`.

    Without a zone, it is that of the environment (`TZ`), else of the system.
    """
    local = datetime.fromtimestamp(moment, UTC).astimezone(zone)
    return local.strftime("%Y-%m-%d %H:%M:%S %Z" if seconds else "%Y-%m-%d %H:%M %Z")
