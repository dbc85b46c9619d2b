"""Acceptances: what a model measured on labelled images of this site."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from db.clock import database_now
from db.tables.base import Table


class Acceptance(Table):
    """One measurement of a model on labelled images of this site, with its verdict. Rows are only added."""

    __tablename__ = "acceptances"

    id: Mapped[int] = mapped_column(primary_key=True)
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"), index=True)
    #: Whether every criterion was met.
    accepted: Mapped[bool]
    #: Who measured: the operating system's user, or the name that this user gave.
    by: Mapped[str] = mapped_column(String(200))
    images: Mapped[int]
    #: SHA-256 over the set of (file digest, class) pairs, as `training.data.dataset.fingerprint` makes it.
    data_fingerprint: Mapped[str] = mapped_column(String(64))
    #: The criteria and what was measured, without a path, a name or a UID.
    figures: Mapped[dict[str, Any]] = mapped_column(JSON)
    #: Each criterion with its result, in a sentence.
    reasons: Mapped[list[str]] = mapped_column(JSON)
    created_at: Mapped[float] = mapped_column(default=database_now())
