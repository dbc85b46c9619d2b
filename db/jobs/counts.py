"""Images counted by cohort, state and problem, as triggers on `images` keep them in `image_counts`.

Reading them costs the same whatever a cohort holds. On PostgreSQL every statement that changes images appends
rows to them, which `fold` adds up now and then.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Select, delete, func, select, text
from sqlalchemy.orm import Session

from db.states import ImageState
from db.tables import Image, ImageCount

#: Images of a cohort by state and problem code; the code is empty if there is none.
Counts = dict[tuple[ImageState, str], int]

#: Names the folding among PostgreSQL's advisory locks.
_FOLD_LOCK = 9_120_331

#: The index `ix_image_counts_to_fold` has the rows that were appended, and those that came to nought.
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

#: SQLite, which keeps one shard; it would look at every row by itself.
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
    """A counter that is not what it counts."""

    cohort_id: int
    state: ImageState
    problem: str
    #: What the counter says, and how many images there are.
    counter: int
    images: int


def count_images(session: Session, cohort_ids: Iterable[int] | None = None) -> dict[int, Counts]:
    """Return the counts of these cohorts or of all; a cohort without images has none."""
    images = func.sum(ImageCount.images)
    group = (ImageCount.cohort_id, ImageCount.state, ImageCount.problem)
    query = select(*group, images).group_by(*group).having(images != 0).order_by(*group)
    if cohort_ids is not None:
        query = query.where(ImageCount.cohort_id.in_(list(cohort_ids)))
    found: dict[int, Counts] = {}
    for cohort_id, state, problem, count in session.execute(query):
        found.setdefault(cohort_id, {})[state, problem] = int(count)
    return found


def cohorts_with(*states: ImageState) -> Select[int]:
    """Select the cohorts that have images in one of these states."""
    return (
        select(ImageCount.cohort_id)
        .where(ImageCount.state.in_(states))
        .group_by(ImageCount.cohort_id)
        .having(func.sum(ImageCount.images) > 0)
    )


def fold(session: Session) -> None:
    """Add up what was appended, and drop what came to nought. Of two at once, one does it."""
    if session.get_bind().dialect.name != "postgresql":
        session.execute(text(_DROP))
    elif session.scalar(select(func.pg_try_advisory_xact_lock(_FOLD_LOCK))):
        session.execute(text(_FOLD))


def compare(session: Session) -> list[Difference]:
    """Compare every counter with the images themselves, which it reads all; return where they differ."""
    group = (Image.cohort_id, Image.state, func.coalesce(Image.problem, ""))
    rows = session.execute(select(*group, func.count()).group_by(*group))
    there = {(cohort_id, state, problem): count for cohort_id, state, problem, count in rows}
    counted = {
        (cohort_id, state, problem): count
        for cohort_id, counts in count_images(session).items()
        for (state, problem), count in counts.items()
    }
    return [
        Difference(
            cohort_id=key[0],
            state=key[1],
            problem=key[2],
            counter=counted.get(key, 0),
            images=there.get(key, 0),
        )
        for key in sorted(there.keys() | counted.keys())
        if there.get(key, 0) != counted.get(key, 0)
    ]


def recount(session: Session) -> None:
    """Count all images again; safe while others change them, for it replaces what one moment shows."""
    if session.get_bind().dialect.name != "postgresql":
        session.execute(delete(ImageCount))
        session.execute(text(_COUNTED.format(shard=0)))
        return
    session.execute(select(func.pg_advisory_xact_lock(_FOLD_LOCK)))
    # One statement sees one moment: what others append meanwhile is neither removed nor counted here.
    counted = _COUNTED.format(shard="(SELECT nextval('image_counts_shard'))")
    session.execute(text(f"WITH removed AS (DELETE FROM image_counts) {counted}"))  # noqa: S608  (constants)
    session.execute(text(_FOLD))
