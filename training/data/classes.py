"""Classes of radiographs: normal, pneumonia and its types."""

from __future__ import annotations

from collections.abc import Sequence

from db.errors import PneumoscreenError
from db.models.card import POSITIVE

NEGATIVE = "NORMAL"
CLASSES = (NEGATIVE, POSITIVE)

#: Types of pneumonia, which imply it.
TYPES = ("BACTERIAL", "VIRAL")


class ClassesUnknown(PneumoscreenError):
    """There are no such classes. Choose normal,pneumonia or normal,bacterial,viral."""

    code = "classes-unknown"


def parse_classes(names: str) -> tuple[str, ...]:
    """Return class names from a comma-separated list. Raises ClassesUnknown."""
    found = tuple(name.strip().upper() for name in names.split(","))
    if found not in (CLASSES, (NEGATIVE, *TYPES)):
        raise ClassesUnknown(names)
    return found


def positives(classes: Sequence[str]) -> tuple[str, ...]:
    """Return those classes that are pneumonia."""
    return tuple(name for name in classes if name != NEGATIVE)


def positive_columns(classes: Sequence[str]) -> list[int]:
    """Return the indices of those classes that are pneumonia."""
    return [index for index, name in enumerate(classes) if name != NEGATIVE]


def as_class(label: str, classes: Sequence[str]) -> str | None:
    """Return the class that a label counts as; None if the type of pneumonia would have to be guessed."""
    counted = POSITIVE if POSITIVE in classes and label in TYPES else label
    return counted if counted in classes else None
