"""A finding of `doctor`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    check: str
    verdict: Literal["good", "note", "bad"]
    found: str
    #: How to fix it.
    mend: str = ""

    def as_json(self) -> dict[str, str]:
        """Return plain JSON values."""
        return asdict(self)
