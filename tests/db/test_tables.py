"""Constraints of the tables: rows that the database refuses."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from db.database_errors import DatabaseFailed
from db.engine import Database
from db.jobs.cohorts import open_cohort
from db.jobs.images import NewImage, add_images


@pytest.mark.parametrize(
    "nonsense",
    [
        "UPDATE images SET state = 'lost'",
        "UPDATE images SET state = 'failed'",
        "UPDATE images SET problem = 'empty-file'",
        "UPDATE images SET state = 'running'",
        "UPDATE images SET cohort_id = 999",
        "UPDATE cohorts SET state = 'paused'",
        "INSERT INTO predictions (image_id, model_id, probability, label, threshold, precision, runtime,"
        " preprocessing, software, input_digest, created_at)"
        " VALUES (1, 1, 1.5, 'NORMAL', 0.5, 'fp32', 'r', 'p', 's', 'd', 0)",
        "INSERT INTO batches (cohort_id, model_id, state, size, attempt, created_at)"
        " VALUES (1, 1, 'running', 1, 0, 0)",
    ],
)
@pytest.mark.usefixtures("model")
def test_an_inconsistent_row_is_refused(database: Database, nonsense: str) -> None:
    with database.write() as session:
        cohort = open_cohort(session, "trial", source="/data")
        add_images(session, cohort.id, [NewImage(uri="/data/1.png")])
    with pytest.raises(DatabaseFailed), database.write() as session:
        session.execute(text(nonsense))
