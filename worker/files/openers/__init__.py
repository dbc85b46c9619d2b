"""Openers: one module for each URL scheme, with the scheme's name and an `OPENER` in it."""

from __future__ import annotations

from functools import cache
from pkgutil import iter_modules


@cache
def opener_modules() -> dict[str, str]:
    """Return the table of openers: the module of each URL scheme.

    A new module in this package is a new scheme. A module is imported when the first URL of its scheme is
    opened, because most of them need a large library.
    """
    return {module.name: f"{__name__}.{module.name}" for module in iter_modules(__path__)}
