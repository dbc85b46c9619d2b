"""Training runs and their results."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from db.clock import database_now
from db.states import RunState
from db.tables.base import Table, states


class TrainingRun(Table):
    """One comparison of backbones."""

    __tablename__ = "training_runs"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[RunState] = mapped_column(states(RunState), index=True)
    #: Whether a worker of the training queue claims it; otherwise the command that opened it does.
    for_worker: Mapped[bool]
    #: The fields of `training.plan.Plan`.
    plan: Mapped[dict[str, Any]] = mapped_column(JSON)
    #: How often it was claimed.
    attempt: Mapped[int] = mapped_column(default=0)
    lease_token: Mapped[str | None] = mapped_column(String(32))
    lease_owner: Mapped[str | None] = mapped_column(String(200))
    lease_until: Mapped[float | None]
    notified_at: Mapped[float | None] = mapped_column("rung_at")
    #: Backbone, epoch, losses and remaining seconds; of a run that is done, its winner and the AUC.
    progress: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    #: Why it failed: an error's code.
    problem: Mapped[str | None] = mapped_column(String(64))
    created_at: Mapped[float] = mapped_column(default=database_now())
    finished_at: Mapped[float | None]


class TrainingResult(Table):
    """The result of one backbone with one seed in a run."""

    __tablename__ = "training_results"
    __table_args__ = (UniqueConstraint("run_id", "backbone", "seed"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("training_runs.id", ondelete="CASCADE"))
    backbone: Mapped[str] = mapped_column(String(32))
    seed: Mapped[int]
    #: The candidate model; null if it failed.
    model_id: Mapped[int | None] = mapped_column(ForeignKey("models.id"))
    #: Why it failed: an error's code.
    problem: Mapped[str | None] = mapped_column(String(64))
    #: For each epoch: training loss, validation loss, accuracy, seconds.
    epochs: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
