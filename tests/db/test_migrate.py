"""Creating and upgrading the tables."""

from __future__ import annotations

import threading

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import MetaData, inspect, select, text

from db.engine import Database
from db.jobs.sweep import expire_batches
from db.queries.progress import progress
from db.queries.totals import batch_totals
from db.states import BatchState
from db.tables import Table
from db.upkeep.counters import compare
from db.upkeep.migrate import DatabaseTooNew, current_revision, head_revision, upgrade


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


#: Rows of a job table of the first version, with a partly screened cohort.
FIRST_VERSION: dict[str, list[dict[str, object]]] = {
    "models": [
        {"id": 1, "name": "resnet50-1", "backbone": "resnet50", "weights_digest": "a" * 64, "threshold": 0.5,
         "card": {"model_id": "resnet50-1"}, "state": "champion", "created_at": 1.0},
    ],
    "cohorts": [
        {"id": 1, "name": "trial", "source": "/data", "priority": 3, "model_id": 1, "state": "ready",
         "created_at": 2.0},
    ],
    "studies": [{"id": 1, "cohort_id": 1, "study_uid": "1.2.3", "patient_key": "b" * 64}],
    "batches": [
        {"id": 1, "cohort_id": 1, "model_id": 1, "state": "running", "size": 2, "attempt": 1,
         "lease_token": "t", "lease_owner": "host:1", "lease_until": 9.0,
         "rung_at": 3.0, "created_at": 3.0, "finished_at": None},
        {"id": 2, "cohort_id": 1, "model_id": 1, "state": "done", "size": 1, "attempt": 1,
         "lease_token": None, "lease_owner": None, "lease_until": None,
         "rung_at": 3.0, "created_at": 3.0, "finished_at": 4.0},
    ],
    "images": [
        {"id": number, "cohort_id": 1, "study_id": 1, "series_uid": None, "instance_uid": f"1.2.3.{number}",
         "uri": f"/data/{number}", "frame": 0, "digest": None, "state": state, "problem": problem,
         "attempts": 1, "batch_id": batch}
        for number, (state, problem, batch) in enumerate(
            [("running", None, 1), ("running", None, 1), ("done", None, 2), ("pending", None, None),
             ("failed", "corrupt-image", None), ("skipped", "not-chest", None)], start=1
        )
    ],
    "predictions": [
        {"id": 1, "image_id": 3, "model_id": 1, "probability": 0.25, "label": "NORMAL", "threshold": 0.5,
         "precision": "fp32", "runtime": "torch", "preprocessing": "p/1", "software": "0",
         "input_digest": "c" * 64, "created_at": 4.0},
    ],
    "events": [
        {"id": 1, "at": 2.0, "actor": "somebody", "action": "submit", "subject": "cohort 1",
         "detail": {"n": 6}},
    ],
}  # fmt: skip


def test_an_upgrade_keeps_every_row_of_a_full_table(empty_database: Database) -> None:
    upgrade(empty_database, to="0001")
    first = MetaData()
    first.reflect(empty_database.engine)
    with empty_database.write() as session:
        for name, rows in FIRST_VERSION.items():
            session.execute(first.tables[name].insert(), rows)
    upgrade(empty_database)
    with empty_database.read() as session:
        for name, rows in FIRST_VERSION.items():
            columns = [Table.metadata.tables[name].c[column] for column in rows[0]]
            kept = session.execute(select(*columns).order_by(columns[0])).mappings().all()
            assert [dict(row) for row in kept] == rows, name
    with empty_database.write() as session:
        assert expire_batches(session) == 1, "the batch of a worker that died in the upgrade was not requeued"
        (trial,) = progress(session, ["trial"])
        assert compare(session) == []
        totals = batch_totals(session)
    assert (totals[BatchState.DONE].batches, sum(total.lost for total in totals.values())) == (1, 1)
    assert (trial.total, trial.done, trial.skipped, trial.failed) == (6, 1, 1, 1)
