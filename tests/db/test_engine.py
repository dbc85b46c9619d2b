"""Transactions on SQLite and on PostgreSQL: what they see and what they may write."""

from __future__ import annotations

import pytest
from sqlalchemy import select, text

from db.database_errors import DatabaseReadOnly
from db.engine import Database
from db.jobs.cohorts import open_cohort
from db.tables import Cohort, Event


def open_one(database: Database, name: str) -> None:
    with database.write() as session:
        open_cohort(session, name, source="/data")


def test_a_read_transaction_sees_one_snapshot(database: Database) -> None:
    names = select(Cohort.name).order_by(Cohort.id)
    open_one(database, "before")
    with database.read() as session:
        assert session.scalars(names).all() == ["before"]
        open_one(database, "meanwhile")
        assert session.scalars(names).all() == ["before"]
    with database.read() as session:
        assert session.scalars(names).all() == ["before", "meanwhile"]


# SQLite has no read-only transactions.
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_read_transaction_cannot_write_and_its_connection_can_write_afterwards(database: Database) -> None:
    with pytest.raises(DatabaseReadOnly), database.read() as session:
        session.add(Event(actor="a", action="a", subject="s", detail={}))
        session.flush()
    # One connection at a time, so the pool gives the same one to both.
    with database.write() as session:
        open_cohort(session, "written", source="/data")
        assert session.scalar(text("SHOW transaction_isolation")) == "read committed"
        assert session.scalar(text("SHOW transaction_read_only")) == "off"
