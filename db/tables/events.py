"""The audit log."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from db.clock import database_now
from db.tables.base import Table


class Event(Table):
    """An entry of the audit log: who did what and when. Rows are only added; `db.audit.chain` chains them."""

    __tablename__ = "events"
    __table_args__ = (Index("uq_events_sequence", "sequence", unique=True),)

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[float] = mapped_column(default=database_now())
    actor: Mapped[str] = mapped_column(String(200))
    action: Mapped[str] = mapped_column(String(64))
    #: The row that it was done to, as in `cohort:12`.
    subject: Mapped[str] = mapped_column(String(64))
    detail: Mapped[dict[str, Any]] = mapped_column(JSON)
    #: Its place in the chain, from 1; null until it is sealed.
    sequence: Mapped[int | None]
    #: SHA-256 of the event and of the previous digest, hexadecimal.
    digest: Mapped[str | None] = mapped_column(String(64))
