"""The sweep, on SQLite and on PostgreSQL."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from db.database_errors import DatabaseFailed
from db.engine import Database
from scheduler.dispatch import Sweeper
from tests.db.test_batches import cut, held, queued_batches, submit

#: Triggers that refuse the update which sealing makes, as for a role without the right to it.
REFUSE = {
    "sqlite": [
        "CREATE TRIGGER refuse BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'no'); END",
    ],
    "postgresql": [
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$",
        "CREATE TRIGGER refuse BEFORE UPDATE ON events EXECUTE FUNCTION refuse()",
    ],
}


@pytest.mark.usefixtures("model")
def test_leases_expire_even_if_the_audit_log_cannot_be_sealed(database: Database) -> None:
    (batch_id,) = cut(database, submit(database, 16))
    with database.write() as session:
        for statement in REFUSE[database.engine.dialect.name]:
            session.execute(text(statement))
    sweeper = Sweeper(database)
    with pytest.raises(DatabaseFailed):
        sweeper.sweep()
    held(database, batch_id, lease_seconds=-1)
    with pytest.raises(DatabaseFailed):
        sweeper.sweep()
    assert queued_batches(database) == [batch_id]
