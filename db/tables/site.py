"""The values of the whole installation."""

from __future__ import annotations

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from db.tables.base import Table


class Site(Table):
    """Values of the whole installation, in one row."""

    __tablename__ = "site"

    id: Mapped[int] = mapped_column(primary_key=True)
    #: Identifies the `site.key` that the pseudonyms were made with.
    key_fingerprint: Mapped[str] = mapped_column(String(64))
