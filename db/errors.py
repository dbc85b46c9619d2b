"""Errors that a user can act on."""

from __future__ import annotations

import inspect
from typing import ClassVar


class PneumoscreenError(Exception):
    """An error that pneumoscreen expects.

    The first paragraph of a subclass' docstring is the message that a user reads: what
    happened, and what to do next. `detail` adds details and holds no patient data.
    """

    code: ClassVar[str] = "pneumoscreen-error"

    def __init__(self, detail: str = "") -> None:
        self.detail = detail
        super().__init__(detail)

    @classmethod
    def meaning(cls) -> str:
        """Return the first paragraph of the docstring, on one line."""
        return " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split())

    def __str__(self) -> str:
        return f"{self.meaning()} ({self.detail})" if self.detail else self.meaning()
