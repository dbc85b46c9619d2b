"""A training run that this process has claimed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from db.engine import Database
from db.lease import Lease
from training.plan import Plan


@dataclass(frozen=True, slots=True)
class ClaimedRun:
    """A claimed run; only the holder of its lease may change it."""

    database: Database
    lease: Lease
    plan: Plan
    #: The folder of its checkpoints and its report.
    folder: Path

    @property
    def id(self) -> int:
        """The run's row id."""
        return self.lease.row_id
