"""Text: what the job table can store of it, and a number with its noun."""

from __future__ import annotations

#: The most bytes of a name in an index: an entry of PostgreSQL holds 2,704 bytes for all its columns.
LONGEST_URI = 2_600


def is_text(name: str) -> bool:
    """Tell whether a name can be stored. A file's name may hold bytes that are not UTF-8."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def is_too_long(uri: str) -> bool:
    """Tell whether a name is too long for an index of the job table."""
    return len(uri.encode()) > LONGEST_URI


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return `1 image` or `2 images`; `plural` is for a noun that does not take an s."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
