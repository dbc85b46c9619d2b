"""A training run that this process has claimed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from db.engine import Database
from training.plan import Plan


@dataclass(frozen=True, slots=True)
class ClaimedRun:
    """A claimed run; only the holder of its lease token may change it."""

    database: Database
    id: int
    #: The lease token.
    token: str
    plan: Plan
    #: The folder of its checkpoints and its report.
    folder: Path
