"""Counts of images by cohort, state and problem.

Triggers on `images` keep them in `image_counts`, so that reading them costs the same however many images
a cohort has. A count is the sum over its rows: PostgreSQL appends rows, which `db.upkeep.counters` adds up.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from db.states import ImageState
from db.tables import ImageCount

#: Images of a cohort by state and problem code; the code is empty if there is none.
Counts = dict[tuple[ImageState, str], int]


def count_images(session: Session, cohort_ids: Iterable[int] | None = None) -> dict[int, Counts]:
    """Return the counts of these cohorts or of all. A cohort without images is not in the result."""
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
    """Select the ids of the cohorts that have images in one of these states."""
    return (
        select(ImageCount.cohort_id)
        .where(ImageCount.state.in_(states))
        .group_by(ImageCount.cohort_id)
        .having(func.sum(ImageCount.images) > 0)
    )
