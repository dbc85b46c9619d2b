"""Values of a DICOM header, which may be missing, empty, of the wrong kind or unreadable."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Any

from db.jobs.problems import CorruptImage

if TYPE_CHECKING:
    from pydicom import Dataset

#: An age string (AS) and its units in a year.
_AGE = re.compile(r"(\d{1,3})([DWMY])")
_PER_YEAR = {"D": 365.25, "W": 365.25 / 7, "M": 12.0, "Y": 1.0}
#: Birth dates that are older are placeholders, as 19000101.
_OLDEST = 120


def text(header: Dataset, keyword: str) -> str:
    """Return an element as upper-case text without padding; empty if it is missing or has no value."""
    value = element(header, keyword)
    return "" if value is None else str(value).strip("\0 \t\r\n").upper()


def readable(header: Dataset, keyword: str) -> str:
    """Return an element as `text` does; empty if it cannot be read, for what decides nothing."""
    try:
        return text(header, keyword)
    except CorruptImage:
        return ""


def age_in_years(header: Dataset) -> str:
    """Return the patient's age at the study in years, as `4.5`; empty if it is unknown.

    It is Patient's Age (0010,1010), PS3.5 section 6.2 (AS), else the time from Patient's Birth Date
    (0010,0030) to Study Date (0008,0020).
    """
    stated = _AGE.fullmatch(readable(header, "PatientAge"))
    if stated:
        return f"{int(stated[1]) / _PER_YEAR[stated[2]]:.1f}"
    try:
        born, seen = (
            datetime.strptime(readable(header, keyword), "%Y%m%d")
            for keyword in ("PatientBirthDate", "StudyDate")
        )
    except ValueError:
        return ""
    years = (seen - born).days / _PER_YEAR["D"]
    return f"{years:.1f}" if 0 <= years < _OLDEST else ""


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
