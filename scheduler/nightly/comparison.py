"""The comparison of a night's figures with those of earlier nights."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from db.trust.profile import Profile


def screened(night: dict[str, Any]) -> int:
    """Return how many images got a prediction in a night, those of earlier nights included."""
    done: int = night["done"]
    # A summary without `earlier` is of an older version, which counted these images in `done`.
    return done + int(night.get("earlier", {}).get("done", 0))


def _failed(night: dict[str, Any]) -> int:
    """Return how many images failed in a night, those of earlier nights included."""
    return sum(sum(one.get("failed", {}).values()) for one in (night, night.get("earlier", {})))


def _familiarity(night: dict[str, Any]) -> float | None:
    """Return the mean familiarity of a night's pictures; None if the model knows none."""
    return Profile(**night["profile"]).familiarity if night.get("profile") else None


def compared(tonight: dict[str, Any], before: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Return the name of each figure, its value tonight, and its median in the nights before."""
    rows: list[tuple[str, Callable[[dict[str, Any]], float | None], str]] = [
        ("new", lambda one: one["new"], ".0f"),
        ("screened", screened, ".0f"),
        ("failed", _failed, ".0f"),
        ("share positive", lambda one: one["positive"] / screened(one) if screened(one) else None, ".1%"),
        ("mean familiarity", _familiarity, ".2f"),
        ("images/s", lambda one: one["images_per_second"], ".1f"),
    ]
    found = []
    for what, value, form in rows:
        theirs = [number for one in before if (number := value(one)) is not None]
        ours = value(tonight)
        if theirs and ours is not None:
            found.append((what, format(ours, form), format(statistics.median(theirs), form)))
    return found
