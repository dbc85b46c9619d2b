"""Batches and their totals."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, CheckConstraint, ForeignKey, Index, String, false, text
from sqlalchemy.orm import Mapped, mapped_column

from db.clock import database_now
from db.states import BatchState
from db.tables.base import Table, states


class Batch(Table):
    """Images that one worker screens together with one model."""

    __tablename__ = "batches"
    __table_args__ = (
        CheckConstraint("(state = 'running') = (lease_token IS NOT NULL)", name="lease"),
        Index(None, "state", "lease_until"),
        # The newest batches of a cohort in one state are read without the others.
        Index(None, "cohort_id", "state", "id"),
        Index(
            "ix_batches_uncounted",
            "state",
            sqlite_where=text("counted = 0"),
            postgresql_where=text("NOT counted"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    cohort_id: Mapped[int] = mapped_column(ForeignKey("cohorts.id", ondelete="CASCADE"))
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"))
    state: Mapped[BatchState] = mapped_column(states(BatchState))
    #: Number of images.
    size: Mapped[int]
    #: How often it was claimed.
    attempt: Mapped[int] = mapped_column(default=0)
    #: New for each claim: a worker with another token can write nothing.
    lease_token: Mapped[str | None] = mapped_column(String(32))
    #: The worker that holds it or held it last.
    lease_owner: Mapped[str | None] = mapped_column(String(200))
    lease_until: Mapped[float | None]
    #: When the broker was last notified of it.
    notified_at: Mapped[float | None] = mapped_column("rung_at")
    #: Where its images come from; null as in `Image.source_id`.
    source_id: Mapped[int | None] = mapped_column(ForeignKey("sources.id"))
    #: It cannot be claimed before this time: a worker returned it because something was unavailable.
    claim_after: Mapped[float | None]
    created_at: Mapped[float] = mapped_column(default=database_now())
    finished_at: Mapped[float | None] = mapped_column(index=True)
    #: How often its lease expired.
    lost: Mapped[int] = mapped_column(default=0, server_default="0")
    #: Whether it is part of `batch_totals`.
    counted: Mapped[bool] = mapped_column(default=False, server_default=false())
    #: Seconds in which the worker waited for decoded pictures, computed, and wrote.
    decode_seconds: Mapped[float | None]
    forward_seconds: Mapped[float | None]
    write_seconds: Mapped[float | None]
    #: The peak of GPU memory of the worker's process; null on a CPU.
    gpu_memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    #: The distributions of its predictions and headers (`db.trust.profile`); null before it is done.
    profile: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))


class BatchTotal(Table):
    """The totals of all batches that ended in one state. Its numbers only grow."""

    __tablename__ = "batch_totals"

    state: Mapped[BatchState] = mapped_column(states(BatchState), primary_key=True)
    batches: Mapped[int]
    images: Mapped[int] = mapped_column(BigInteger)
    #: Leases that expired.
    lost: Mapped[int]
    decode_seconds: Mapped[float]
    forward_seconds: Mapped[float]
    write_seconds: Mapped[float]
    #: The part of `batches` whose rows were moved to an archive.
    pruned: Mapped[int]
