"""The progress of a training run, for the job table and the progress bar."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from db.database_errors import DatabaseFailed
from db.errors import PneumoscreenError
from db.lease import Heartbeat
from db.training.runs import note_progress
from training.fitting.callbacks import OnProgress
from training.outcome import EpochResult
from training.run.claim import ClaimedRun

log = logging.getLogger(__name__)

#: Seconds between two records of progress in the job table.
_RECORD_SECONDS = 2.0


class Interrupted(PneumoscreenError):
    """The training worker is stopping. The run resumes from its last epoch when a worker starts again."""

    code = "training-interrupted"


@dataclass(frozen=True, slots=True)
class Step:
    """The progress of a run at one moment."""

    backbone: str
    seed: int
    #: Finished part of the whole run, from 0 to 1.
    part: float
    seconds_left: float | None
    epochs: tuple[EpochResult, ...]

    def as_json(self) -> dict[str, Any]:
        """Return what `status` shows."""
        last = asdict(self.epochs[-1]) if self.epochs else {}
        return {
            "backbone": self.backbone,
            "seed": self.seed,
            "part": round(self.part, 4),
            "seconds_left": None if self.seconds_left is None else round(self.seconds_left),
            **last,
        }


OnStep = Callable[[Step], None]


class Progress:
    """Reports the progress of a run, and stops it when its lease is lost."""

    def __init__(self, run: ClaimedRun, heartbeat: Heartbeat, on_step: OnStep) -> None:
        self._run, self._heartbeat, self._on_step = run, heartbeat, on_step
        self._recorded = 0.0

    def of_trial(self, backbone: str, seed: int, start: float, share: float) -> OnProgress:
        """Return what a training calls with its progress.

        `start` and `share` say where the training begins in the whole run, and its share of the run.
        """
        began, first = time.monotonic(), None

        def show(done: float, epochs: tuple[EpochResult, ...]) -> None:
            nonlocal first
            self._heartbeat.check()
            # What was done before a restart says nothing about the speed now.
            first = done if first is None else first
            pace = (time.monotonic() - began) / (done - first) if done > first else None
            left = None if pace is None else pace * (1 - done + (1 - start - share) / share)
            self._show(Step(backbone, seed, start + share * done, left, epochs))

        return show

    def _show(self, step: Step) -> None:
        self._on_step(step)
        if time.monotonic() - self._recorded <= _RECORD_SECONDS:
            return
        self._recorded = time.monotonic()
        try:
            with self._run.database.write() as session:
                note_progress(session, self._run.lease, step.as_json())
        except DatabaseFailed as error:
            # Hours of work are worth more than one record; the heartbeat tells whether the lease holds.
            log.warning("progress of run %d was not recorded: %s", self._run.id, error.code)
