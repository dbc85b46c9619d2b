"""Kinds of sources: one module for each, with `accepts(where)` and `open_source(where, roots)` in it."""

from __future__ import annotations

from functools import cache
from pkgutil import iter_modules


@cache
def source_modules() -> dict[str, str]:
    """Return the table of kinds of sources: the module of each; a new module in this package is a new one."""
    return {module.name: f"{__name__}.{module.name}" for module in iter_modules(__path__)}
