"""Values of a DICOM header, which may be missing, empty, of the wrong kind or unreadable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from db.jobs.problems import CorruptImage

if TYPE_CHECKING:
    from pydicom import Dataset


def text(header: Dataset, keyword: str) -> str:
    """Return an element as upper-case text without padding; empty if it is missing or has no value."""
    value = element(header, keyword)
    return "" if value is None else str(value).strip("\0 \t\r\n").upper()


def integer(header: Dataset, keyword: str, default: int | None = None) -> int:
    """Return an element as a whole number. Raises CorruptImage if there is neither a value nor a default."""
    values = numbers(header, keyword)
    if values:
        return int(values[0])
    if default is None:
        raise CorruptImage(keyword)
    return default


def numbers(header: Dataset, keyword: str) -> tuple[float, ...]:
    """Return an element's values as finite numbers, `()` if it is empty. Raises CorruptImage."""
    value = element(header, keyword)
    if value is None or value == "":
        return ()
    try:
        # A list holds several values; text or a number is one value.
        found = [value] if isinstance(value, str | int | float) else list(value)
        finite = tuple(float(number) for number in found)
    except (TypeError, ValueError, OverflowError) as error:
        raise CorruptImage(keyword) from error
    if any(number - number != 0 for number in finite):
        raise CorruptImage(keyword)
    return finite


def items(header: Dataset, keyword: str) -> list[Dataset]:
    """Return the items of a sequence; an empty list if it is missing or is not a sequence."""
    from pydicom import Dataset, Sequence

    value = element(header, keyword)
    return [item for item in value if isinstance(item, Dataset)] if isinstance(value, Sequence) else []


def element(header: Dataset, keyword: str) -> Any:
    """Return an element's value, None if it is missing or blank. Raises CorruptImage."""
    try:
        return header.get(keyword)
    except Exception as error:
        if _is_blank(header, keyword):
            return None
        # pydicom parses a value when it is first read, and raises all kinds of errors for bad bytes.
        raise CorruptImage(keyword) from error


def _is_blank(header: Dataset, keyword: str) -> bool:
    """Tell whether an element is only padding, which pydicom does not accept as the absence of a number."""
    value = header.get_item(keyword).value
    return isinstance(value, bytes) and not value.strip(b"\0 ")
