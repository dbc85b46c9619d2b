"""Upkeep of the image counters that `db.queries.counts` reads: folding, comparing, counting again.

On PostgreSQL every statement that changes images appends rows to `image_counts`, so that two statements never
wait for one another. `fold` adds these rows up.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import delete, func, select, text
from sqlalchemy.orm import Session

from db.engine import on_postgresql
from db.queries.counts import count_images
from db.states import ImageState
from db.tables import Image, ImageCount

#: The number of PostgreSQL's advisory lock for folding.
_FOLD_LOCK = 9_120_331

#: The index `ix_image_counts_to_fold` holds the rows that were appended, and those whose sum is zero.
_FOLD = """
    WITH folded AS (
        DELETE FROM image_counts
        WHERE cohort_id IN (SELECT cohort_id FROM image_counts WHERE shard <> 0)
        RETURNING cohort_id, state, problem, images
    )
    INSERT INTO image_counts (cohort_id, state, problem, shard, images)
    SELECT cohort_id, state, problem, 0, sum(images) FROM folded
    GROUP BY cohort_id, state, problem HAVING sum(images) <> 0
"""

#: SQLite keeps one shard, so only rows of zero are deleted. Without the hint it would read every row.
_DROP = """
    DELETE FROM image_counts INDEXED BY ix_image_counts_to_fold
    WHERE (shard <> 0 OR images = 0) AND images = 0
"""

_COUNTED = """
    INSERT INTO image_counts (cohort_id, state, problem, shard, images)
    SELECT cohort_id, state, coalesce(problem, ''), {shard}, count(*) FROM images
    GROUP BY cohort_id, state, problem
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A counter that differs from the number of images."""

    cohort_id: int
    state: ImageState
    problem: str
    #: What the counter says.
    counter: int
    #: How many images there are.
    images: int


def fold(session: Session) -> None:
    """Add up the rows that were appended, and delete those of zero. If two run at once, one does it."""
    if not on_postgresql(session):
        session.execute(text(_DROP))
    elif session.scalar(select(func.pg_try_advisory_xact_lock(_FOLD_LOCK))):
        session.execute(text(_FOLD))


def compare(session: Session) -> list[Difference]:
    """Compare every counter with the images themselves and return the differences. It reads every image."""
    group = (Image.cohort_id, Image.state, func.coalesce(Image.problem, ""))
    rows = session.execute(select(*group, func.count()).group_by(*group))
    images = {(cohort_id, state, problem): count for cohort_id, state, problem, count in rows}
    counters = {
        (cohort_id, state, problem): count
        for cohort_id, counts in count_images(session).items()
        for (state, problem), count in counts.items()
    }
    return [
        Difference(
            cohort_id=key[0],
            state=key[1],
            problem=key[2],
            counter=counters.get(key, 0),
            images=images.get(key, 0),
        )
        for key in sorted(images.keys() | counters.keys())
        if images.get(key, 0) != counters.get(key, 0)
    ]


def recount(session: Session) -> None:
    """Count all images again. Safe while others change images: it replaces the counters of one moment."""
    if not on_postgresql(session):
        session.execute(delete(ImageCount))
        session.execute(text(_COUNTED.format(shard=0)))
        return
    session.execute(select(func.pg_advisory_xact_lock(_FOLD_LOCK)))
    # One statement sees one moment: rows that others append meanwhile are neither deleted nor counted.
    counted = _COUNTED.format(shard="(SELECT nextval('image_counts_shard'))")
    session.execute(text(f"WITH removed AS (DELETE FROM image_counts) {counted}"))  # noqa: S608  (constants)
    session.execute(text(_FOLD))
