"""Large job tables, filled in bulk, for tests of what grows with them."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.orm import Session

from db.engine import Database
from db.upkeep.counters import fold
from db.upkeep.ended_batches import count_ended

#: One of so many images has failed; one of so many of the others was skipped.
_FAILED, _SKIPPED = 20, 19
BATCH = 256
#: Images for each study, archived cohort, night, sealed event and label.
STUDY, COHORT, NIGHT, EVENT, LABEL = 4, 1_000, 1_000, 100, 10
#: Images that wait in batches, the same number in every table.
WAITING = 512

_MODEL = """
INSERT INTO models (id, name, backbone, weights_digest, threshold, card, state, created_at)
VALUES (1, 'resnet50-1', 'resnet50', 'a', 0.5, '{{}}', 'champion', 1)
"""
_COHORTS = """
INSERT INTO cohorts (id, name, source, priority, state, created_at, nightly)
VALUES (1, 'large', '/data', 0, 'ready', {now}, 'ward'), (2, 'waiting', '/data', 0, 'ready', {now}, NULL)
"""
_ARCHIVED = """
INSERT INTO cohorts (id, name, source, priority, state, created_at, nightly, archived)
SELECT 10 + n, 'night-' || n, '/data', 0, 'ready', 1, 'ward',
       '{{"cohort_id": 1, "name": "x", "state": "ready", "priority": 0, "total": 0, "pending": 0, "queued": 0,
         "running": 0, "done": 0, "skipped": 0, "failed": 0, "problems": {{}}, "waits_for": null}}'
FROM ({numbers}) AS numbers
"""
_STUDIES = """
INSERT INTO studies (id, cohort_id, study_uid, patient_key) SELECT n, 1, '1.2.' || n, 'p' || n
FROM ({numbers}) AS numbers
"""
_BATCHES = """
INSERT INTO batches (id, cohort_id, model_id, state, size, attempt, lease_owner, created_at, finished_at,
                     decode_seconds, forward_seconds, write_seconds)
SELECT n, 1, 1, 'done', {batch}, 1, 'host:1', 1, 1 + n, 1.0, 2.0, 0.1 FROM ({numbers}) AS numbers
"""
_IMAGES = """
INSERT INTO images (id, cohort_id, study_id, series_uid, instance_uid, uri, frame, size, modified, digest,
                    state, problem, attempts, batch_id)
SELECT n, 1, (n + {study} - 1) / {study}, '1.3.' || n, '1.4.' || n, '/data/' || n || '.dcm', 0, 1000, 1.0,
       'd' || n,
       CASE WHEN n % {failed} = 0 THEN 'failed' WHEN n % {skipped} = 0 THEN 'skipped' ELSE 'done' END,
       CASE WHEN n % {failed} = 0 THEN 'corrupt-image' WHEN n % {skipped} = 0 THEN 'not-chest' END,
       1, (n + {batch} - 1) / {batch}
FROM ({numbers}) AS numbers
"""
_PREDICTIONS = """
INSERT INTO predictions (image_id, model_id, probability, label, threshold, precision, runtime, preprocessing,
                         software, input_digest, created_at)
SELECT id, 1, 0.5, 'PNEUMONIA', 0.5, 'fp32', 'torch', 'p/1', '0', 'd', 1.0 FROM images WHERE state = 'done'
"""
_NIGHTS = """
INSERT INTO nightly_runs (id, name, slot, plan, state, summarised_at, created_at, finished_at)
SELECT n, 'ward', n, '{{}}', CASE WHEN n = 1 THEN 'baseline' ELSE 'done' END,
       CASE WHEN n = 1 THEN NULL ELSE n END, n, n FROM ({numbers}) AS numbers
"""
_EVENTS = """
INSERT INTO events (id, at, actor, action, subject, detail, sequence, digest)
SELECT n, n, 'somebody', 'cohort.retry', 'cohort:1', '{{}}', n, 'x' || n FROM ({numbers}) AS numbers
"""
_LABELS = """
INSERT INTO labels (id, digest, class_name, reader, read_on, source, created_at)
SELECT n, 'd' || n, 'NORMAL', 'A', '', 'f', 0.5 FROM ({numbers}) AS numbers
"""
_WAITING_BATCHES = """
INSERT INTO batches (id, cohort_id, model_id, state, size, attempt, rung_at, created_at)
SELECT {after} + n, 2, 1, 'queued', {batch}, 0, {now}, {now} FROM ({numbers}) AS numbers
"""
_WAITING = """
INSERT INTO images (id, cohort_id, uri, frame, state, attempts, batch_id)
SELECT {after} + n, 2, '/data/waiting/' || n, 0, 'queued', 0, {batches} + (n + {batch} - 1) / {batch}
FROM ({numbers}) AS numbers
"""

_SERIES = "SELECT n FROM generate_series(1, {rows}) AS n"
_RECURSION = (
    "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {rows}) SELECT n FROM n"
)
_FINISHED = """
INSERT INTO cohorts (id, name, source, priority, state, created_at)
SELECT 100000 + n, 'finished-' || n, '/data', 0, 'ready', {now} FROM ({numbers}) AS numbers
"""
_FINISHED_IMAGES = """
INSERT INTO images (cohort_id, uri, frame, state, attempts)
SELECT 100000 + n, '/data/finished/' || n, 0, 'done', 1 FROM ({numbers}) AS numbers
"""


def grow(database: Database, images: int, *, finished: int = 1) -> None:
    """Fill an empty job table with a finished cohort of `images` images, and matching rows in other tables.

    A second cohort waits in its batches, for which messages have just been sent. `finished` more cohorts are
    finished and have one image each.
    """
    batches = -(-images // BATCH)
    with database.write() as session:
        _run(session, _MODEL)
        _run(session, _COHORTS)
        _run(session, _ARCHIVED, rows=images // COHORT)
        _run(session, _STUDIES, rows=-(-images // STUDY))
        _run(session, _BATCHES, rows=batches)
        _run(session, _IMAGES, rows=images)
        _run(session, _PREDICTIONS)
        _run(session, _NIGHTS, rows=1 + images // NIGHT)
        _run(session, _EVENTS, rows=images // EVENT)
        _run(session, _LABELS, rows=images // LABEL)
        _run(session, _WAITING_BATCHES, rows=WAITING // BATCH, after=batches)
        _run(session, _WAITING, rows=WAITING, after=images, batches=batches)
        _run(session, _FINISHED, rows=finished)
        _reset_ids(session, "images")
        _run(session, _FINISHED_IMAGES, rows=finished)
        for table in ("images", "batches", "studies", "events", "nightly_runs", "cohorts", "labels"):
            _reset_ids(session, table)
    with database.write() as session:
        fold(session)
        while count_ended(session):
            pass
    _analyze(database)


def _run(session: Session, statement: str, *, rows: int = 0, **values: int) -> None:
    postgresql = session.get_bind().dialect.name == "postgresql"
    numbers = _SERIES if postgresql else _RECURSION
    filled = statement.format(
        numbers=numbers.format(rows=rows),
        now="extract(epoch FROM clock_timestamp())" if postgresql else "unixepoch()",
        batch=BATCH,
        study=STUDY,
        failed=_FAILED,
        skipped=_SKIPPED,
        **values,
    )
    session.execute(text(filled))


def _reset_ids(session: Session, table: str) -> None:
    if session.get_bind().dialect.name == "postgresql":
        session.execute(
            text(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), (SELECT max(id) FROM {table}))")  # noqa: S608  (our own names)
        )


def _analyze(database: Database) -> None:
    """Do what autovacuum does by itself within a minute."""
    if database.engine.dialect.name == "postgresql":
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")
