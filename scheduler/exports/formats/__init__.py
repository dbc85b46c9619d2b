"""Formats of results: one module for each, named as the suffix of its files, with a `write` in it."""

from __future__ import annotations

from functools import cache
from pkgutil import iter_modules


@cache
def format_modules() -> dict[str, str]:
    """Return the table of formats: the module of each suffix. A new module here is a new format."""
    return {f".{module.name}": f"{__name__}.{module.name}" for module in iter_modules(__path__)}
