"""Nightly runs and the files that they know."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, String, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from db.clock import database_now
from db.states import NightState
from db.tables.base import Table, states


class NightlyRun(Table):
    """One slot of a nightly schedule."""

    __tablename__ = "nightly_runs"
    __table_args__ = (
        # One run per slot, also with two beat processes or after a clock jumps.
        UniqueConstraint("name", "slot"),
        Index(None, "state"),
        Index(
            "ix_nightly_runs_unsummarised",
            "state",
            sqlite_where=text("summarised_at IS NULL"),
            postgresql_where=text("summarised_at IS NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    #: The schedule's name.
    name: Mapped[str] = mapped_column(String(64))
    #: When it is due.
    slot: Mapped[float]
    #: When it stops cutting batches; null means no limit.
    window_ends: Mapped[float | None]
    #: The schedule when the run was opened.
    plan: Mapped[dict[str, Any]] = mapped_column(JSON)
    state: Mapped[NightState] = mapped_column(states(NightState))
    #: Its own cohort; null until it has found new images.
    cohort_id: Mapped[int | None] = mapped_column(ForeignKey("cohorts.id", ondelete="SET NULL"))
    lease_token: Mapped[str | None] = mapped_column(String(32))
    lease_until: Mapped[float | None]
    notified_at: Mapped[float | None] = mapped_column("rung_at")
    #: The code of the error that made reading its source fail.
    problem: Mapped[str | None] = mapped_column(String(64))
    #: The summary's figures, as `scheduler.nightly.summary` counts them, and where they were `sent`.
    summary: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    #: When the summary was written and sent.
    summarised_at: Mapped[float | None]
    created_at: Mapped[float] = mapped_column(default=database_now())
    finished_at: Mapped[float | None]


class NightlySeen(Table):
    """A file that a nightly schedule need not open again: its row was archived, or it is not an image."""

    __tablename__ = "nightly_seen"

    uri: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    #: Its size in bytes and its time of change; null if unknown.
    size: Mapped[int | None] = mapped_column(BigInteger)
    modified: Mapped[float | None]
