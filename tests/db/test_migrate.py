"""Creating and upgrading the tables."""

from __future__ import annotations

import threading

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text

from db.engine import Database
from db.migrate import DatabaseTooNew, current_revision, head_revision, upgrade
from db.tables import Table


def test_migrations_make_the_tables_that_the_code_describes(empty_database: Database) -> None:
    upgrade(empty_database)
    with empty_database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Table.metadata) == []
        inspector = inspect(connection)
        for table in Table.metadata.sorted_tables:
            expected = {str(c.name) for c in table.constraints if type(c).__name__ == "CheckConstraint"}
            assert {c["name"] for c in inspector.get_check_constraints(table.name)} == expected


def test_upgrading_twice_changes_nothing(empty_database: Database) -> None:
    assert current_revision(empty_database) is None
    for _ in range(2):
        upgrade(empty_database)
        assert current_revision(empty_database) == head_revision()


def test_many_processes_may_upgrade_at_once(empty_database: Database) -> None:
    together = threading.Barrier(4)
    errors: list[BaseException] = []

    def start() -> None:
        together.wait()
        try:
            upgrade(empty_database)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert current_revision(empty_database) == head_revision()


def test_a_database_of_a_newer_version_is_left_alone(database: Database) -> None:
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DatabaseTooNew):
        upgrade(database)
