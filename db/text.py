"""What a text column of the job table can hold."""

from __future__ import annotations

#: Bytes of a name that the job table can look up: an index entry of PostgreSQL holds 2,704 with all columns.
LONGEST_URI = 2_600


def is_text(name: str) -> bool:
    """Tell whether a name can be stored; that of a file may hold bytes that are no UTF-8."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def is_too_long(uri: str) -> bool:
    """Tell whether a name is longer than the job table can look up."""
    return len(uri.encode()) > LONGEST_URI
